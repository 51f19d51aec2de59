"""The effect of element-wise operations, reductions and norms on channel labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from amc_env.graph.labels import Constant, Labels, TraceError, Tracer, channels, compact, spread, varying
from amc_env.graph.shapes import chunk


def same(tracer: Tracer, x: Labels, *settings: Any, **named: Any) -> Labels:
    """An element-wise operation on one tensor: its labels do not change."""
    if any(isinstance(value, Labels | Constant | Tensor) for value in (*settings, *named.values())):
        raise TraceError("a second tensor is not understood here; write it with add, mul, minimum or maximum")
    for value in (*settings, *named.values()):
        _record_number(tracer, value)
    return Labels(x.ids)


def _record_number(tracer: Tracer, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        tracer.number(value)


def cast(tracer: Tracer, x: Labels, *_: Any, **__: Any) -> Labels:
    """A copy, a change of type or a move to a device, also to those of a second tensor."""
    return Labels(x.ids)


def binary(
    tracer: Tracer, *operands: Any, alpha: Any = 1, rounding_mode: str | None = None, **named: Any
) -> Labels:
    """An element-wise operation on two operands, at least one with labels; labels that meet are unified."""
    a, b = (*operands, *named.values())
    x, y = (a, b) if isinstance(a, Labels) else (b, a)
    if isinstance(y, Constant):
        return _with_constant(tracer, x, y)
    if isinstance(y, Labels):
        return _meet(tracer, x, y)
    if isinstance(y, Tensor):
        return _with_tensor(tracer, x, y)
    _record_number(tracer, y)
    return Labels(x.ids)


def ternary(tracer: Tracer, *operands: Any, **named: Any) -> Labels:
    """An element-wise operation on three operands, by position or name, at least one with labels."""
    every = (*operands, *named.values())
    first, *others = sorted(every, key=lambda operand: not isinstance(operand, Labels))
    for other in others:
        first = binary(tracer, first, other)
    found: Labels = first
    return found


def glu(tracer: Tracer, x: Labels, dim: int = -1) -> Labels:
    """A gated linear unit: the labels of its two halves are unified."""
    first, second = chunk(tracer, x, 2, dim)
    return _meet(tracer, first, second)


def _meet(tracer: Tracer, a: Labels, b: Labels) -> Labels:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    left, right = a.ids.expand(shape), b.ids.expand(shape)
    for one, other in ((left, right), (right, left)):
        narrow, wide = compact(one), compact(other)
        if any(narrow.size(d) == 1 and wide.size(d) > 1 for d in range(len(shape))):
            tracer.keep(one, "a single channel that is broadcast over many")
            return Labels(other)
    return Labels(tracer.tie(left, right))


def _with_constant(tracer: Tracer, x: Labels, constant: Constant) -> Labels:
    """A parameter that is added or multiplied, such as a layer scale, is cut along the channels."""
    shape = torch.broadcast_shapes(x.shape, constant.value.shape)
    x = Labels(x.ids.reshape([1] * (len(shape) - x.ids.ndim) + list(x.shape)))
    lead, changing = len(shape) - constant.value.ndim, varying(x.ids)
    if any(x.shape[dim + lead] == 1 for dim in constant.dims):
        return _meet(tracer, x, label_constant(tracer, constant))
    dims = [dim for dim in constant.dims if dim + lead in changing]
    if len(dims) > 1:
        size = tuple(constant.value.shape)
        raise TraceError(f"{constant.name} of shape {size} does not run along the channels alone")
    if dims:
        tracer.vector(constant.name, constant.value, dims[0], channels(x.ids, dims[0] + lead))
    return Labels(x.ids.expand(shape))


def label_constant(tracer: Tracer, constant: Constant) -> Labels:
    """A parameter with labels of its own, which later operations unify with others."""
    if len(constant.dims) != 1:
        raise TraceError(
            f"{constant.name} of shape {tuple(constant.value.shape)} is understood only where it is added to "
            "or multiplied with activations of its full size"
        )
    ids = tracer.vector(constant.name, constant.value, constant.dims[0])
    return Labels(spread(ids, constant.value.shape, constant.dims[0]))


def _with_tensor(tracer: Tracer, x: Labels, tensor: Tensor) -> Labels:
    """A tensor that the forward made from plain numbers; its size does not follow the channels."""
    shape = torch.broadcast_shapes(x.shape, tensor.shape)
    ids = x.ids.expand(shape)
    lead = len(shape) - tensor.ndim
    if any(tensor.size(dim - lead) > 1 for dim in varying(ids) if dim >= lead):
        tracer.keep(ids, "a tensor of fixed size meets channels; make it a parameter or buffer (C, 1, 1)")
    return Labels(ids)


def reduce(
    tracer: Tracer, x: Labels, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Labels:
    """A reduction: over positions, labels do not change; over channels, all of them must stay."""
    dims = range(x.ids.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = tuple(d % x.ids.ndim for d in dims)
    changing = varying(x.ids)
    if not set(dims) & set(changing):
        return Labels(x.ids.amax(dims, keepdim))
    tracer.keep(x.ids, "a reduction over channels")
    left = [d for d in changing if d not in dims]
    shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
    ids = tracer.blank(shape[left[0]] if left else 1)
    ids = spread(ids, shape, left[0]) if left else ids.expand(shape)
    return Labels(ids if keepdim else ids.amax(dims))


def norm(
    tracer: Tracer, x: Labels, p: Any = 2, dim: Any = None, keepdim: bool = False, **settings: Any
) -> Labels:
    """A vector norm, as in a global response norm."""
    return reduce(tracer, x, dim, keepdim)


def deviation(
    tracer: Tracer,
    x: Labels,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = 1,
) -> Labels:
    """Standard deviation or variance."""
    return reduce(tracer, x, None if isinstance(dim, bool) else dim, keepdim)


class Extreme(NamedTuple):
    """The result of a maximum or minimum along a dimension, as torch returns it."""

    values: Labels
    indices: Labels


def extreme(tracer: Tracer, x: Any, dim: Any = None, keepdim: bool = False, **named: Any) -> Any:
    """A maximum or minimum: of all numbers, of two tensors, or along a dimension (then with indices)."""
    other = named.get("other", dim)
    if isinstance(other, Tensor | Constant) or not isinstance(x, Labels):
        return binary(tracer, x, other)
    found = reduce(tracer, x, dim, keepdim)
    return found if dim is None else Extreme(found, found)


def normalize(tracer: Tracer, x: Labels, p: float = 2, dim: int = 1, *_: Any, **__: Any) -> Labels:
    """Division by the vector norm along one dimension."""
    return softmax(tracer, x, dim)


def local_response_norm(tracer: Tracer, x: Labels, *_: Any, **__: Any) -> Labels:
    """Division of each channel by a norm over neighbouring channels."""
    tracer.keep(x.ids, "a norm over neighbouring channels")
    return Labels(x.ids)


def softmax(tracer: Tracer, x: Labels, dim: int | None = None, **_: Any) -> Labels:
    """A softmax; over channels, all of them must stay."""
    if dim is None or dim % x.ids.ndim in varying(x.ids):
        tracer.keep(x.ids, "a softmax over channels")
    return Labels(x.ids)
