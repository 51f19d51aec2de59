"""The effect of operations that only move numbers: they are run on the channel labels themselves.

Sizes need care: a size that the forward computes from its input shrinks with the channels, a literal does
not. Channels that cannot shrink are kept (`Tracer.keep`), with a note.
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
    TraceError,
    Tracer,
    channels,
    literal,
    spread,
    tie_along,
    varying,
)


def method(name: str) -> Callable[..., Labels]:
    """The rule of an operation that is run on the labels unchanged."""

    def run(tracer: Tracer, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        return Labels(getattr(x.ids, name)(*args, **kwargs))

    return run


def flatten(tracer: Tracer, x: Labels, start_dim: int = 0, end_dim: int = -1) -> Labels:
    """A flatten; if also of positions, a linear layer after it reads each channel many times."""
    return Labels(x.ids.flatten(start_dim, end_dim))


def contiguous(tracer: Tracer, x: Labels, *_: Any, **__: Any) -> Labels:
    """A copy in the memory format that views expect."""
    made = Labels(x.ids)
    made.in_order = True
    return made


def view(tracer: Tracer, x: Labels, *shape: Any, size: Sequence[int] = ()) -> Labels:
    """A reshape that cannot copy; some are impossible in the channels-last memory format."""
    sizes = _sizes(shape or (size,))
    made = reshape(tracer, x, *sizes)
    _note_layout(tracer, x, made, sizes)
    return made


def view_as(tracer: Tracer, x: Labels, other: Tensor) -> Labels:
    """A view of another tensor's shape."""
    made = reshape_as(tracer, x, other)
    _note_layout(tracer, x, made, tuple(other.shape))
    return made


def _note_layout(tracer: Tracer, x: Labels, made: Labels, sizes: Sequence[int]) -> None:
    """Find out whether a view is possible in the channels-last format; it keeps the layout of its input."""
    flat = x.ids.ndim <= 2
    batched = made.shape[0] != 1 or (len(sizes) > 0 and type(sizes[0]) is int and sizes[0] == 1)
    merged = batched and 1 in varying(x.ids)  # images with channels
    if not x.in_order and not flat and (merged or not _viewed_channels_last(x.shape, made.shape)):
        tracer.no_channels_last()
    made.in_order = x.in_order or flat


def _viewed_channels_last(shape: torch.Size, sizes: Sequence[int]) -> bool:
    if len(shape) != 4:
        return False
    try:
        torch.empty(shape, device="meta").contiguous(memory_format=torch.channels_last).view(tuple(sizes))
    except (RuntimeError, ValueError):
        return False
    return True


def reshape(tracer: Tracer, x: Labels, *sizes: Any, shape: Sequence[int] = ()) -> Labels:
    """A view, or a copy where no view is possible."""
    sizes = _sizes(sizes or (shape,))
    ids = x.ids.reshape(sizes)
    return Labels(rectangular(tracer, ids, [d for d, size in enumerate(sizes) if literal(size)]))


def reshape_as(tracer: Tracer, x: Labels, other: Tensor) -> Labels:
    """A reshape to another tensor's shape."""
    return Labels(x.ids.reshape(other.shape))


def unflatten(tracer: Tracer, x: Labels, dim: int, sizes: Sequence[int]) -> Labels:
    """A view that splits one dimension into several."""
    fixed = [dim % x.ids.ndim + at for at, size in enumerate(sizes) if literal(size)]
    return Labels(rectangular(tracer, x.ids.unflatten(dim, tuple(sizes)), fixed))


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """The sizes, whether given as ``view(a, b)`` or as ``view((a, b))``."""
    return tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape)


def rectangular(tracer: Tracer, ids: Tensor, written: Sequence[int]) -> Tensor:
    """Tie the labels along every dimension whose size is a literal, so that it keeps this size."""
    changing = varying(ids)
    fixed = [dim for dim in changing if dim in written]
    if fixed and len(fixed) == len(changing):
        tracer.keep(ids, "a view with a literal number of channels; write it with x.size(...), -1 or flatten")
        return ids
    for dim in fixed:
        ids = tie_along(tracer, ids, dim)
    return ids


def channel_shuffle(tracer: Tracer, x: Labels, groups: int) -> Labels:
    """Interleave the channels of the groups."""
    blocks = rectangular(tracer, x.ids.unflatten(1, (groups, -1)), [1])
    return Labels(blocks.transpose(1, 2).flatten(1, 2))


def pixel_shuffle(tracer: Tracer, x: Labels, upscale_factor: int) -> Labels:
    """Channels become positions; those that form one output channel are unified."""
    each = upscale_factor**2
    blocks = tie_along(tracer, channels(x.ids, 1).view(-1, each), 1)[:, 0]
    size = (x.shape[2] * upscale_factor, x.shape[3] * upscale_factor)
    return Labels(spread(blocks, (1, len(blocks), *size), 1))


def pixel_unshuffle(tracer: Tracer, x: Labels, downscale_factor: int) -> Labels:
    """Positions become channels; those that come from one channel share its label."""
    ids = channels(x.ids, 1).repeat_interleave(downscale_factor**2)
    size = (x.shape[2] // downscale_factor, x.shape[3] // downscale_factor)
    return Labels(spread(ids, (1, len(ids), *size), 1))


def expand(tracer: Tracer, x: Labels, *shape: Any, size: Sequence[int] = ()) -> Labels:
    """Explicit broadcasting."""
    sizes = _sizes(shape or (size,))
    out = x.ids.expand(sizes)
    written = [d for d, size in enumerate(sizes) if literal(size)]
    lead = out.ndim - x.ids.ndim
    grown = [d for d in written if d < lead or x.shape[d - lead] == 1]
    if set(written) & set(varying(out)):
        tracer.keep(out, "an expand to a literal number of channels; write -1")
    elif len(grown) == 1 and not varying(out):
        (dim,) = grown
        tracer.keep(out, "an expand to a literal number of channels; write expand_as or x.size(...)")
        return Labels(spread(tracer.blank(int(out.shape[dim])), out.shape, dim))
    elif grown:
        raise TraceError(
            "an expand to a literal size may not follow the channels; write expand_as or x.size(...)"
        )
    return Labels(out)


def expand_as(tracer: Tracer, x: Labels, other: Labels) -> Labels:
    """Explicit broadcasting to another tensor's shape."""
    return Labels(x.ids.expand(other.shape))


def squeeze(tracer: Tracer, x: Labels, dim: Any = None) -> Labels:
    """A squeeze of given dimensions."""
    if dim is None:
        raise TraceError("squeeze without a dimension also drops the last channel left; name the dimension")
    return Labels(x.ids.squeeze(dim))


def new_zeros(tracer: Tracer, x: Labels, *shape: Any, **settings: Any) -> Tensor:
    """A tensor without labels, of the size that the forward asks for."""
    return torch.zeros(_sizes(shape))


def chunk(tracer: Tracer, x: Labels, chunks: int, dim: int = 0) -> tuple[Labels, ...]:
    """Equal parts, unified position by position so that they stay equal."""
    return _pieces(tracer, x, x.ids.chunk(chunks, dim), dim, "a chunk into unequal parts")


def split(tracer: Tracer, x: Labels, sizes: Any, dim: int = 0) -> tuple[Labels, ...]:
    """Like `chunk` if the sizes are equal and computed; else all channels stay."""
    parts = sizes if isinstance(sizes, tuple | list) else [sizes]
    what = "a split of literal or unequal sizes; use chunk, or sizes computed from x.size(1)"
    pieces = x.ids.split(sizes, dim)
    if not all(isinstance(part, Count) for part in parts) and dim % x.ids.ndim in varying(x.ids):
        tracer.keep(x.ids, what)
        return tuple(Labels(piece) for piece in pieces)
    return _pieces(tracer, x, pieces, dim, what)


def _pieces(tracer: Tracer, x: Labels, pieces: Sequence[Tensor], dim: int, what: str) -> tuple[Labels, ...]:
    if dim % x.ids.ndim not in varying(x.ids):
        return tuple(Labels(piece) for piece in pieces)
    if len({piece.shape for piece in pieces}) > 1:
        tracer.keep(x.ids, what)
        return tuple(Labels(piece) for piece in pieces)
    return (Labels(pieces[0]), *(Labels(tracer.tie(pieces[0], piece)) for piece in pieces[1:]))


def getitem(tracer: Tracer, x: Any, index: Any) -> object:
    """An index or slice; if it takes only some of the channels, all of them stay."""
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
        tracer.keep(x.ids, "an index that takes some of the channels; use chunk")
    return Labels(x.ids[index])


def narrow(tracer: Tracer, x: Labels, dim: int, start: int, length: int) -> object:
    """A slice along one dimension, see `getitem`."""
    return getitem(tracer, x, (*[slice(None)] * (dim % x.ids.ndim), slice(start, start + length)))


def select(tracer: Tracer, x: Labels, dim: int, index: int) -> object:
    """An index along one dimension, see `getitem`."""
    return getitem(tracer, x, (*[slice(None)] * (dim % x.ids.ndim), index))


def unbind(tracer: Tracer, x: Labels, dim: int = 0) -> Any:
    """Slices along a dimension, one by one."""
    if dim % x.ids.ndim in varying(x.ids):
        tracer.keep(x.ids, "channels that are taken one by one")
    pieces = tuple(Labels(piece) for piece in x.ids.unbind(dim))
    return pieces


def roll(tracer: Tracer, x: Labels, shifts: Any, dims: Any = None) -> Labels:
    """A roll; if it moves channels, all of them stay."""
    moved = (dims,) if isinstance(dims, int) else dims or range(x.ids.ndim)
    if {dim % x.ids.ndim for dim in moved} & set(varying(x.ids)):
        tracer.keep(x.ids, "channels that are rolled")
    return Labels(x.ids.roll(shifts, dims))


def _whole(place: object, size: int) -> bool:
    """Whether a slice takes everything, also when fewer channels are left."""
    if not isinstance(place, slice):
        return False
    reaches = place.stop is None or place.stop >= size
    return place.start in (None, 0) and reaches and place.step in (None, 1)


def cat(tracer: Tracer, tensors: Sequence[object], dim: int = 0) -> Labels:
    """A concatenation: along channels it joins their labels, along other dimensions it unifies them."""
    own = [tensor.ids for tensor in tensors if isinstance(tensor, Labels)]
    made = [_made(tensor) for tensor in tensors if not isinstance(tensor, Labels)]
    dim, shape = dim % own[0].ndim, list(own[0].shape)
    shape[dim] = sum(part.size(dim) for part in (*own, *made))
    changing = {d for part in own for d in varying(part)}
    if changing and dim not in changing:
        first = own[0].narrow(dim, 0, 1)
        for part in own[1:]:
            tracer.tie(first, part.narrow(dim, 0, 1))
        if made:
            tracer.keep(
                first, "joined along positions with a tensor that is no activation (F.pad pads positions)"
            )
        return Labels(first.expand(shape))
    parts = [_part(tracer, tensor, dim) for tensor in tensors]
    for d in set(range(len(shape))) - changing - {dim}:
        parts = [part.narrow(d, 0, 1) for part in parts]
    return Labels(torch.cat(parts, dim).expand(shape))


def _part(tracer: Tracer, tensor: object, dim: int) -> Tensor:
    if isinstance(tensor, Labels):
        return tensor.ids
    made = _made(tensor)
    return spread(tracer.blank(made.size(dim)), made.shape, dim)


def _made(tensor: object) -> Tensor:
    """A tensor that the forward makes, such as zeros."""
    if not isinstance(tensor, Tensor):
        raise TraceError(f"a concatenation with {type(tensor).__name__}, which is no activation")
    return tensor


def stack(tracer: Tracer, tensors: Sequence[Labels], dim: int = 0) -> Labels:
    """A concatenation along a new dimension."""
    return cat(tracer, [Labels(tensor.ids.unsqueeze(dim)) for tensor in tensors], dim)


def spatial(operation: Callable[..., Tensor]) -> Callable[..., Labels]:
    """Pooling and resizing: channels stay, positions change."""

    def run(tracer: Tracer, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        ids = channels(x.ids, 1)
        out = operation(torch.zeros(1, 1, *x.shape[2:]), *args, **kwargs)
        if not isinstance(out, Tensor):
            raise TraceError("pooling that also returns indices is not understood")
        return Labels(spread(ids, (1, len(ids), *out.shape[2:]), 1))

    return run


def pad(tracer: Tracer, x: Labels, pad: Sequence[int], mode: str = "constant", value: float = 0) -> Labels:
    """Padding of positions, or of channels by new ones that always stay (a ResNet's option A shortcut)."""
    ids, changing = x.ids, varying(x.ids)
    if not changing:
        changing = [1]  # a single channel that is left, or several that read one
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
        first, last = (spread(tracer.blank(end[dim]), end, dim) for end in ends)
        ids = torch.cat([first, ids, last], dim)
    return Labels(ids)
