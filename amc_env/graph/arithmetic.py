"""What element-wise operations, reductions and norms do to channel labels: unify them, or pin them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from amc_env.graph.labels import Constant, Labels, Scribe, TraceError, channels, compact, spread, varying
from amc_env.graph.shapes import chunk


def same(scribe: Scribe, x: Labels, *settings: Any, **named: Any) -> Labels:
    """One operand: nothing happens to its labels."""
    if any(isinstance(value, Labels | Constant | Tensor) for value in (*settings, *named.values())):
        raise TraceError("a second tensor is not understood here; write it with add, mul, minimum or maximum")
    for value in (*settings, *named.values()):
        _hear_number(scribe, value)
    return Labels(x.ids)


def _hear_number(scribe: Scribe, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        scribe.number(value)


def cast(scribe: Scribe, x: Labels, *_: Any, **__: Any) -> Labels:
    """A copy, another type, another place: also where a second tensor says which."""
    return Labels(x.ids)


def binary(
    scribe: Scribe, *operands: Any, alpha: Any = 1, rounding_mode: str | None = None, **named: Any
) -> Labels:
    """Two operands, of which one at least has labels: what meets, stands or falls together."""
    a, b = (*operands, *named.values())
    x, y = (a, b) if isinstance(a, Labels) else (b, a)
    if isinstance(y, Constant):
        return _with_constant(scribe, x, y)
    if isinstance(y, Labels):
        return _meet(scribe, x, y)
    if isinstance(y, Tensor):
        return _with_tensor(scribe, x, y)
    _hear_number(scribe, y)
    return Labels(x.ids)


def ternary(scribe: Scribe, *operands: Any, **named: Any) -> Labels:
    """Three operands, by position or name, of which one at least has labels."""
    every = (*operands, *named.values())
    first, *others = sorted(every, key=lambda operand: not isinstance(operand, Labels))
    for other in others:
        first = binary(scribe, first, other)
    found: Labels = first
    return found


def glu(scribe: Scribe, x: Labels, dim: int = -1) -> Labels:
    """One half gates the other."""
    first, second = chunk(scribe, x, 2, dim)
    return _meet(scribe, first, second)


def _meet(scribe: Scribe, a: Labels, b: Labels) -> Labels:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    left, right = a.ids.expand(shape), b.ids.expand(shape)
    for one, other in ((left, right), (right, left)):
        narrow, wide = compact(one), compact(other)
        if any(narrow.size(d) == 1 and wide.size(d) > 1 for d in range(len(shape))):
            scribe.keep(one, "a single channel that is broadcast over many")
            return Labels(other)
    return Labels(scribe.tie(left, right))


def _with_constant(scribe: Scribe, x: Labels, constant: Constant) -> Labels:
    """A parameter that is added or multiplied, such as a layer scale, is cut along the channels."""
    shape = torch.broadcast_shapes(x.shape, constant.value.shape)
    x = Labels(x.ids.reshape([1] * (len(shape) - x.ids.ndim) + list(x.shape)))
    lead, changing = len(shape) - constant.value.ndim, varying(x.ids)
    if any(x.shape[dim + lead] == 1 for dim in constant.dims):
        return _meet(scribe, x, label_constant(scribe, constant))
    dims = [dim for dim in constant.dims if dim + lead in changing]
    if len(dims) > 1:
        size = tuple(constant.value.shape)
        raise TraceError(f"{constant.name} of shape {size} does not run along the channels alone")
    if dims:
        scribe.vector(constant.name, constant.value, dims[0], channels(x.ids, dims[0] + lead))
    return Labels(x.ids.expand(shape))


def label_constant(scribe: Scribe, constant: Constant) -> Labels:
    """A parameter as the source of channels of its own, which later operations unify with others."""
    if len(constant.dims) != 1:
        raise TraceError(
            f"{constant.name} of shape {tuple(constant.value.shape)} is understood only where it is added to "
            "or multiplied with activations of its full size"
        )
    ids = scribe.vector(constant.name, constant.value, constant.dims[0])
    return Labels(spread(ids, constant.value.shape, constant.dims[0]))


def _with_tensor(scribe: Scribe, x: Labels, tensor: Tensor) -> Labels:
    """A tensor that the forward made of numbers alone does not shrink."""
    shape = torch.broadcast_shapes(x.shape, tensor.shape)
    ids = x.ids.expand(shape)
    lead = len(shape) - tensor.ndim
    if any(tensor.size(dim - lead) > 1 for dim in varying(ids) if dim >= lead):
        scribe.keep(ids, "a tensor of fixed size meets channels; make it a parameter or buffer (C, 1, 1)")
    return Labels(ids)


def reduce(
    scribe: Scribe, x: Labels, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Labels:
    """Over positions nothing happens to the channels; over channels, all of them must stay."""
    dims = range(x.ids.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = tuple(d % x.ids.ndim for d in dims)
    changing = varying(x.ids)
    if not set(dims) & set(changing):
        return Labels(x.ids.amax(dims, keepdim))
    scribe.keep(x.ids, "a reduction over channels")
    left = [d for d in changing if d not in dims]
    shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
    ids = scribe.blank(shape[left[0]] if left else 1)
    ids = spread(ids, shape, left[0]) if left else ids.expand(shape)
    return Labels(ids if keepdim else ids.amax(dims))


def norm(
    scribe: Scribe, x: Labels, p: Any = 2, dim: Any = None, keepdim: bool = False, **settings: Any
) -> Labels:
    """The length of a vector, as in a global response norm."""
    return reduce(scribe, x, dim, keepdim)


def deviation(
    scribe: Scribe,
    x: Labels,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = 1,
) -> Labels:
    """Standard deviation or variance."""
    return reduce(scribe, x, None if isinstance(dim, bool) else dim, keepdim)


class Extreme(NamedTuple):
    """What torch returns of a maximum along a dimension."""

    values: Labels
    indices: Labels


def extreme(scribe: Scribe, x: Any, dim: Any = None, keepdim: bool = False, **named: Any) -> Any:
    """Of all numbers, of two tensors, or along a dimension, there with their indices."""
    other = named.get("other", dim)
    if isinstance(other, Tensor | Constant) or not isinstance(x, Labels):
        return binary(scribe, x, other)
    found = reduce(scribe, x, dim, keepdim)
    return found if dim is None else Extreme(found, found)


def normalize(scribe: Scribe, x: Labels, p: float = 2, dim: int = 1, *_: Any, **__: Any) -> Labels:
    """Divided by a length along one dimension."""
    return softmax(scribe, x, dim)


def local_response_norm(scribe: Scribe, x: Labels, *_: Any, **__: Any) -> Labels:
    """Each channel is divided by what its neighbours hold."""
    scribe.keep(x.ids, "a norm over neighbouring channels")
    return Labels(x.ids)


def softmax(scribe: Scribe, x: Labels, dim: int | None = None, **_: Any) -> Labels:
    """What is normalised over channels needs all of them."""
    if dim is None or dim % x.ids.ndim in varying(x.ids):
        scribe.keep(x.ids, "a softmax over channels")
    return Labels(x.ids)
