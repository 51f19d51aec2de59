"""Channel labels, which stand for the values while a network is traced, and who keeps the record of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx, nn


class TraceError(ValueError):
    """A network, or a part of one, that cannot be compressed safely."""


@dataclass(frozen=True, slots=True)
class Labels:
    """``ids``: int64, of the shape that the values have for one image (batch 1); a label for each number."""

    ids: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of the values."""
        return self.ids.shape


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter or buffer that the forward uses by itself."""

    name: str
    value: Tensor

    @property
    def dims(self) -> list[int]:
        """The dimensions along which it has more than one entry."""
        return [dim for dim, size in enumerate(self.value.shape) if size > 1]


class Scribe(Protocol):
    """Emits labels and hears of everything that happens to them."""

    node: fx.Node

    def layer(
        self, name: str, module: nn.Module, reads: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]
    ) -> Tensor:
        """Hear of one call of a convolution or linear layer; the labels ``(c_out,)`` that it writes."""

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor | None = None) -> Tensor:
        """Hear that entry i of a parameter or buffer, along a dimension, belongs to the channel ``ids[i]``.

        Without ``ids`` it has channels of its own; either way its labels are returned.
        """

    def norm(self, weight: str) -> None:
        """Hear of a norm whose statistics run over channels, by the name of its weight."""

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Unify two label tensors of one shape; the unified labels."""

    def keep(self, ids: Tensor, why: str) -> None:
        """Hear that these channels cannot be removed."""

    def blank(self, count: int) -> Tensor:
        """Labels for channels that no layer writes (the image, padding): they always stay."""

    def number(self, value: float) -> None:
        """Hear of a number that enters the values; it must not depend on how many channels are left."""

    def finish(self, ids: Tensor) -> None:
        """Hear of the labels of the logits."""


def compact(ids: Tensor) -> Tensor:
    """Every dimension along which the labels do not change, cut to 1."""
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


def tie_along(scribe: Scribe, ids: Tensor, dim: int) -> Tensor:
    """Unify all slices along one dimension: they stand or fall together, position by position."""
    first = ids.narrow(dim, 0, 1)
    for at in range(1, ids.size(dim)):
        scribe.tie(first, ids.narrow(dim, at, 1))
    return first.expand_as(ids)
