"""What operations that only move numbers do to channel labels: they run on them.

Sizes are the delicate part: those that the forward computes from its input shrink with the channels, those
that it writes as a number do not. What cannot shrink is pinned (`Scribe.keep`), with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from amc_env.graph.labels import (
    Constant,
    Count,
    Labels,
    Scribe,
    TraceError,
    channels,
    literal,
    spread,
    tie_along,
    varying,
)


def method(name: str) -> Callable[..., Labels]:
    """An operation that runs on labels as it is."""

    def run(scribe: Scribe, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        return Labels(getattr(x.ids, name)(*args, **kwargs))

    return run


def flatten(scribe: Scribe, x: Labels, start_dim: int = 0, end_dim: int = -1) -> Labels:
    """Also of channels and positions: a linear layer behind it then reads each channel many times."""
    return Labels(x.ids.flatten(start_dim, end_dim))


def contiguous(scribe: Scribe, x: Labels, *_: Any, **__: Any) -> Labels:
    """A copy in the memory format that views expect."""
    made = Labels(x.ids)
    made.in_order = True
    return made


def view(scribe: Scribe, x: Labels, *shape: Any) -> Labels:
    """A reshape that cannot copy; not all can be had of numbers that lie channels last."""
    if not x.in_order and x.ids.ndim > 2 and not _viewed_channels_last(x.shape, _sizes(shape)):
        scribe.no_channels_last()
    return contiguous(scribe, reshape(scribe, x, *shape))


def _viewed_channels_last(shape: torch.Size, sizes: Sequence[int]) -> bool:
    if len(shape) != 4:
        return False
    try:
        torch.empty(shape, device="meta").contiguous(memory_format=torch.channels_last).view(tuple(sizes))
    except (RuntimeError, ValueError):
        return False
    return True


def reshape(scribe: Scribe, x: Labels, *sizes: Any, shape: Sequence[int] = ()) -> Labels:
    """A view, or a copy where none can be had."""
    sizes = _sizes(sizes or (shape,))
    ids = x.ids.reshape(sizes)
    return Labels(rectangular(scribe, ids, [d for d, size in enumerate(sizes) if literal(size)]))


def reshape_as(scribe: Scribe, x: Labels, other: Tensor) -> Labels:
    """View as another tensor."""
    return Labels(x.ids.reshape(other.shape))


def unflatten(scribe: Scribe, x: Labels, dim: int, sizes: Sequence[int]) -> Labels:
    """A view of one dimension."""
    fixed = [dim % x.ids.ndim + at for at, size in enumerate(sizes) if literal(size)]
    return Labels(rectangular(scribe, x.ids.unflatten(dim, tuple(sizes)), fixed))


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Of ``view(a, b)`` as of ``view((a, b))``."""
    return tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape)


def rectangular(scribe: Scribe, ids: Tensor, written: Sequence[int]) -> Tensor:
    """Tie the labels along every dimension whose size is a literal, so that it stays full."""
    changing = varying(ids)
    fixed = [dim for dim in changing if dim in written]
    if fixed and len(fixed) == len(changing):
        scribe.keep(ids, "a view with a literal number of channels; write it with x.size(...), -1 or flatten")
        return ids
    for dim in fixed:
        ids = tie_along(scribe, ids, dim)
    return ids


def channel_shuffle(scribe: Scribe, x: Labels, groups: int) -> Labels:
    """Channels of each of so many groups in turn."""
    blocks = rectangular(scribe, x.ids.unflatten(1, (groups, -1)), [1])
    return Labels(blocks.transpose(1, 2).flatten(1, 2))


def pixel_shuffle(scribe: Scribe, x: Labels, upscale_factor: int) -> Labels:
    """Channels become positions: those of one output channel go together."""
    each = upscale_factor**2
    blocks = tie_along(scribe, channels(x.ids, 1).view(-1, each), 1)[:, 0]
    size = (x.shape[2] * upscale_factor, x.shape[3] * upscale_factor)
    return Labels(spread(blocks, (1, len(blocks), *size), 1))


def pixel_unshuffle(scribe: Scribe, x: Labels, downscale_factor: int) -> Labels:
    """Positions become channels, which go with the one that they are of."""
    ids = channels(x.ids, 1).repeat_interleave(downscale_factor**2)
    size = (x.shape[2] // downscale_factor, x.shape[3] // downscale_factor)
    return Labels(spread(ids, (1, len(ids), *size), 1))


def expand(scribe: Scribe, x: Labels, *shape: Any) -> Labels:
    """Broadcasting by hand."""
    sizes = _sizes(shape)
    out = x.ids.expand(sizes)
    written = [d for d, size in enumerate(sizes) if literal(size)]
    lead = out.ndim - x.ids.ndim
    if set(written) & set(varying(out)):
        scribe.keep(out, "an expand to a literal number of channels; write -1")
    elif any(d < lead or x.shape[d - lead] == 1 for d in written):
        raise TraceError(
            "an expand to a literal size may not follow the channels; write expand_as or x.size(...)"
        )
    return Labels(out)


def expand_as(scribe: Scribe, x: Labels, other: Labels) -> Labels:
    """Broadcasting by hand to another tensor's shape."""
    return Labels(x.ids.expand(other.shape))


def squeeze(scribe: Scribe, x: Labels, dim: Any = None) -> Labels:
    """Of named dimensions."""
    if dim is None:
        raise TraceError("squeeze without a dimension also drops the last channel left; name the dimension")
    return Labels(x.ids.squeeze(dim))


def new_zeros(scribe: Scribe, x: Labels, *shape: Any, **settings: Any) -> Tensor:
    """A tensor without channels; its size is that which the forward asks for."""
    return torch.zeros(_sizes(shape))


def chunk(scribe: Scribe, x: Labels, chunks: int, dim: int = 0) -> tuple[Labels, ...]:
    """Equal parts stay equal: they are unified position by position."""
    return _pieces(scribe, x, x.ids.chunk(chunks, dim), dim, "a chunk into unequal parts")


def split(scribe: Scribe, x: Labels, sizes: Any, dim: int = 0) -> tuple[Labels, ...]:
    """As a chunk where the sizes are equal and computed."""
    parts = sizes if isinstance(sizes, tuple | list) else [sizes]
    what = "a split of literal or unequal sizes; use chunk, or sizes computed from x.size(1)"
    pieces = x.ids.split(sizes, dim)
    if not all(isinstance(part, Count) for part in parts) and dim % x.ids.ndim in varying(x.ids):
        scribe.keep(x.ids, what)
        return tuple(Labels(piece) for piece in pieces)
    return _pieces(scribe, x, pieces, dim, what)


def _pieces(scribe: Scribe, x: Labels, pieces: Sequence[Tensor], dim: int, what: str) -> tuple[Labels, ...]:
    if dim % x.ids.ndim not in varying(x.ids):
        return tuple(Labels(piece) for piece in pieces)
    if len({piece.shape for piece in pieces}) > 1:
        scribe.keep(x.ids, what)
        return tuple(Labels(piece) for piece in pieces)
    return (Labels(pieces[0]), *(Labels(scribe.tie(pieces[0], piece)) for piece in pieces[1:]))


def getitem(scribe: Scribe, x: Any, index: Any) -> object:
    """Where an index takes only some of the channels, all of them stay."""
    if not isinstance(x, Labels):
        return x[index]
    places: Any = index if isinstance(index, tuple) else (index,)
    if any(isinstance(place, Labels | Constant | Tensor) for place in places):
        raise TraceError("an index that is a tensor is not understood; use chunk, or mul with a mask")
    taken, dim = set(), 0
    for at, place in enumerate(places):
        if place is Ellipsis:
            dim = x.ids.ndim - sum(later is not None for later in places[at + 1 :])
        elif place is not None:
            taken |= set() if _whole(place, x.ids.size(dim)) else {dim}
            dim += 1
    if taken & set(varying(x.ids)):
        scribe.keep(x.ids, "an index that takes some of the channels; use chunk")
    return Labels(x.ids[index])


def narrow(scribe: Scribe, x: Labels, dim: int, start: int, length: int) -> object:
    """As a slice."""
    return getitem(scribe, x, (*[slice(None)] * (dim % x.ids.ndim), slice(start, start + length)))


def select(scribe: Scribe, x: Labels, dim: int, index: int) -> object:
    """As an index."""
    return getitem(scribe, x, (*[slice(None)] * (dim % x.ids.ndim), index))


def unbind(scribe: Scribe, x: Labels, dim: int = 0) -> Any:
    """Slices along a dimension, one by one."""
    if dim % x.ids.ndim in varying(x.ids):
        scribe.keep(x.ids, "channels that are taken one by one")
    pieces = tuple(Labels(piece) for piece in x.ids.unbind(dim))
    return pieces


def roll(scribe: Scribe, x: Labels, shifts: Any, dims: Any = None) -> Labels:
    """Of positions; channels that move stay."""
    moved = (dims,) if isinstance(dims, int) else dims or range(x.ids.ndim)
    if {dim % x.ids.ndim for dim in moved} & set(varying(x.ids)):
        scribe.keep(x.ids, "channels that are rolled")
    return Labels(x.ids.roll(shifts, dims))


def _whole(place: object, size: int) -> bool:
    """Whether a slice takes everything, also when fewer channels are left."""
    if not isinstance(place, slice):
        return False
    reaches = place.stop is None or place.stop >= size
    return place.start in (None, 0) and reaches and place.step in (None, 1)


def cat(scribe: Scribe, tensors: Sequence[object], dim: int = 0) -> Labels:
    """Along channels it joins them, along anything else it unifies them."""
    parts = [_part(scribe, tensor, dim) for tensor in tensors]
    dim = dim % parts[0].ndim
    shape = list(parts[0].shape)
    shape[dim] = sum(part.size(dim) for part in parts)
    changing = {d for part in parts for d in varying(part)}
    if changing and dim not in changing:
        first = parts[0].narrow(dim, 0, 1)
        for part in parts[1:]:
            scribe.tie(first, part.narrow(dim, 0, 1))
        return Labels(first.expand(shape))
    for d in set(range(len(shape))) - changing - {dim}:
        parts = [part.narrow(d, 0, 1) for part in parts]
    return Labels(torch.cat(parts, dim).expand(shape))


def _part(scribe: Scribe, tensor: object, dim: int) -> Tensor:
    if isinstance(tensor, Labels):
        return tensor.ids
    if isinstance(tensor, Tensor):  # zeros made in the forward
        return spread(scribe.blank(tensor.size(dim)), tensor.shape, dim % tensor.ndim)
    raise TraceError(f"a concatenation with {type(tensor).__name__}, which is no activation")


def stack(scribe: Scribe, tensors: Sequence[Labels], dim: int = 0) -> Labels:
    """A concatenation along a new dimension."""
    return cat(scribe, [Labels(tensor.ids.unsqueeze(dim)) for tensor in tensors], dim)


def spatial(operation: Callable[..., Tensor]) -> Callable[..., Labels]:
    """Pooling and resizing: channels stay, positions change."""

    def run(scribe: Scribe, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        ids = channels(x.ids, 1)
        out = operation(torch.zeros(1, 1, *x.shape[2:]), *args, **kwargs)
        if not isinstance(out, Tensor):
            raise TraceError("pooling that also returns indices is not understood")
        return Labels(spread(ids, (1, len(ids), *out.shape[2:]), 1))

    return run


def pad(scribe: Scribe, x: Labels, pad: Sequence[int], mode: str = "constant", value: float = 0) -> Labels:
    """Of positions, and of channels by ones that always stay (the shortcut of a ResNet's option A)."""
    ids, changing = x.ids, varying(x.ids)
    if not changing and x.shape[1] == 1:
        changing = [1]  # a single channel that is left
    for at in range(0, len(pad), 2):
        (before, after), dim = pad[at : at + 2], ids.ndim - 1 - at // 2
        if not before and not after:
            continue
        shape = list(ids.shape)
        if dim not in changing:
            shape[dim] += before + after
            ids = ids.narrow(dim, 0, 1).expand(shape)
            continue
        if min(before, after) < 0 or mode != "constant":
            raise TraceError("channels may be padded with a constant, not cropped or mirrored")
        ends = [[*shape[:dim], count, *shape[dim + 1 :]] for count in (before, after)]
        first, last = (spread(scribe.blank(end[dim]), end, dim) for end in ends)
        ids = torch.cat([first, ids, last], dim)
    return Labels(ids)
