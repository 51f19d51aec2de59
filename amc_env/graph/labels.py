"""Channel labels, which replace the values while a network is traced, and the protocol of a tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class TraceError(ValueError):
    """A network, or a part of one, that cannot be compressed safely."""


class Labels(Tensor):
    """The activations of one image in a trace: a label for each number, and no values.

    A tensor subclass without storage, so that the network's own code accepts it.

    Args:
        ids: int64, of the shape of the activations; equal numbers are one channel.
        source: the layer whose unchanged output this is; None for anything else.

    Attributes:
        value: the numbers, if computed from parameters alone; None for activations.
        in_order: whether the forward has just put it into the default memory format.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    ids: Tensor
    source: Source | None
    value: Tensor | None
    in_order: bool

    @staticmethod
    def __new__(cls, ids: Tensor, source: Source | None = None) -> Labels:
        """Make one of the shape of ``ids``."""
        made: Labels = Tensor._make_wrapper_subclass(cls, ids.shape, dtype=torch.float32)
        made.ids, made.source, made.value, made.in_order = ids, source, None, False
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse an operation that compiled code calls: it cannot be traced."""
        raise TraceError(f"the operation {func} is called by compiled code, which is not traced")


@dataclass(eq=False)
class Source:
    """The output of a layer, and how often it is read."""

    layer: str
    readers: int = 0


class Count(int):
    """A size that the forward read from its input, or computed from one: it shrinks with the channels."""


def _following(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def compute(*numbers: int) -> Any:
        result = plain(*numbers)
        return Count(result) if isinstance(result, int) else result

    return compute


for _name in ("add", "sub", "mul", "floordiv", "mod", "pow"):
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Count, _method, _following(_method))
setattr(Count, "__neg__", _following("__neg__"))  # noqa: B010


def literal(size: object) -> bool:
    """Whether a size is a literal of the forward, which does not shrink with the channels."""
    return isinstance(size, int | np.integer) and not isinstance(size, Count) and bool(size > 1)


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter or buffer that the forward computes with.

    Attributes:
        name: in the network, the first if it has several.
        value: its numbers.
        owner: the module that holds it.
        dims: the dimensions along which it has more than one entry in the dense network.
    """

    name: str
    value: Tensor
    owner: nn.Module
    dims: Sequence[int]


Size = tuple[int, int]


class Tracer(Protocol):
    """Gives layers their output labels, and is called for everything that happens to labels."""

    def set_place(self, place: Callable[[], str]) -> None:
        """Take a function that says which operation is running, for notes."""

    def vector_dim(self, name: str) -> int | None:
        """The dimension along which a parameter holds one entry for each channel; None if unknown."""

    def layer(self, name: str, module: nn.Module, reads: Tensor, in_size: Size, out_size: Size) -> Tensor:
        """Record a call of a convolution or linear layer; the labels ``(c_out,)`` that it writes."""

    def fixed_cost(self, macs: int) -> None:
        """Record a convolution or linear layer that no plan cuts, with its MACs for one image."""

    def fold(self, source: Source | None, norm: str) -> None:
        """Record a call of a batch norm, and the layer whose unchanged output it reads, if any."""

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor | None = None) -> Tensor:
        """Record that entry i of a parameter or buffer, along a dimension, belongs to the channel ``ids[i]``.

        Without ``ids`` it gets labels of its own. Its labels are returned.
        """

    def no_channels_last(self) -> None:
        """Record a view that is possible only in the default memory format."""

    def norm(self, weight: str) -> None:
        """Record a norm whose statistics run over channels, by the name of its weight."""

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Unify two label tensors of one shape; the unified labels."""

    def keep(self, ids: Tensor, why: str) -> None:
        """Record that these channels cannot be removed, and why."""

    def blank(self, count: int) -> Tensor:
        """Labels for channels that no layer writes (the image, padding): they always stay."""

    def number(self, value: float) -> None:
        """Record a number that enters the values; it must not depend on how many channels are left."""

    def finish(self, ids: Tensor) -> None:
        """Record the labels of the outputs."""


def compact(ids: Tensor) -> Tensor:
    """The labels, with every dimension along which they do not change cut to size 1."""
    for dim in range(ids.ndim):  # expanded dimensions first: the comparisons below then see few numbers
        if ids.size(dim) > 1 and ids.stride(dim) == 0:
            ids = ids.narrow(dim, 0, 1)
    for dim in range(ids.ndim):
        first = ids.narrow(dim, 0, 1)
        if ids.size(dim) > 1 and bool((ids == first).all()):
            ids = first
    return ids


def varying(ids: Tensor) -> list[int]:
    """The dimensions along which the labels change."""
    return [dim for dim, size in enumerate(compact(ids).shape) if size > 1]


def channels(ids: Tensor, dim: int) -> Tensor:
    """``(C,)`` the labels along one dimension, which must be the only one along which they change."""
    dim = dim % ids.ndim
    small = compact(ids)
    changing = [d for d in range(ids.ndim) if small.size(d) > 1]
    if any(d != dim for d in changing):
        raise TraceError(
            f"channels run along dimension {changing} of {tuple(ids.shape)}, expected along {dim} only; "
            "permute, pool or flatten before this node"
        )
    return small.movedim(dim, 0).reshape(-1).expand(ids.size(dim)).contiguous()


def spread(ids: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Labels ``(C,)`` along one dimension of a tensor of that shape, expanded along all others."""
    view = [1] * len(shape)
    view[dim] = len(ids)
    return ids.view(view).expand(*shape)


def tie_along(tracer: Tracer, ids: Tensor, dim: int) -> Tensor:
    """Unify all slices along one dimension, position by position."""
    first = ids.narrow(dim, 0, 1)
    for at in range(1, ids.size(dim)):
        tracer.tie(first, ids.narrow(dim, at, 1))
    return first.expand_as(ids)
