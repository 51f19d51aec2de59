"""What each operation does to channel labels, and who keeps the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.ELU,
    nn.SELU, nn.CELU, nn.Tanh, nn.Softplus, nn.Mish, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
POOLING = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LPPool2d,
    nn.Upsample,
    nn.ZeroPad2d,
)


class TraceError(ValueError):
    """A network, or a part of one, that cannot be compressed safely."""


@dataclass(frozen=True, slots=True)
class Labels:
    """``ids``: int64, of the shape that the values have for one image (batch 1); one label for each number."""

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
    def shape(self) -> torch.Size:
        """That of the tensor."""
        return self.value.shape


class Scribe(Protocol):
    """Emits labels and hears of everything that happens to them."""

    node: fx.Node

    def image(self, shape: tuple[int, int, int]) -> Tensor:
        """Labels ``(1, C, H, W)`` of the input."""

    def layer(
        self, name: str, module: nn.Module, reads: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]
    ) -> Tensor:
        """Hear of one call of a convolution or linear layer; the labels ``(c_out,)`` that it writes."""

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor) -> None:
        """Hear that entry i of a parameter or buffer, along a dimension, belongs to the channel ``ids[i]``."""

    def norm(self, name: str) -> None:
        """Hear of a layer norm over channels."""

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Unify two label tensors of one shape; the unified labels."""

    def keep(self, ids: Tensor, why: str) -> None:
        """Hear that these channels cannot be removed."""

    def blank(self, count: int) -> Tensor:
        """Labels for channels that no layer writes (padding): they always stay."""

    def finish(self, ids: Tensor) -> None:
        """Hear of the labels of the logits."""


def compact(ids: Tensor) -> Tensor:
    """Every dimension along which the labels do not change, cut to 1."""
    for dim in range(ids.ndim):
        first = ids.narrow(dim, 0, 1)
        if ids.size(dim) > 1 and (ids.stride(dim) == 0 or bool((ids == first).all())):
            ids = first
    return ids


def channels(ids: Tensor, dim: int) -> Tensor:
    """``(C,)`` the labels along one dimension, which must be the only one along which they change."""
    dim = dim % ids.ndim
    small = compact(ids)
    varying = [d for d in range(ids.ndim) if small.size(d) > 1]
    if any(d != dim for d in varying):
        raise TraceError(
            f"channels run along dimension {varying} of {tuple(ids.shape)}, expected along {dim} only; "
            "pool or flatten before this node"
        )
    return small.movedim(dim, 0).reshape(-1).expand(ids.size(dim)).contiguous()


def spread(ids: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Labels ``(C,)`` along one dimension of a tensor of that shape, the same along all others, without memory."""
    view = [1] * len(shape)
    view[dim] = len(ids)
    return ids.view(view).expand(*shape)


def apply_module(scribe: Scribe, name: str, module: nn.Module, *args: Any, **kwargs: Any) -> object:
    """A leaf module, run on labels."""
    x = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(x, Labels):
        raise TraceError(
            f"module {name!r} takes {type(x).__name__}, expected the activations of one image batch"
        )
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return _convolution(scribe, name, module, x)
    if isinstance(module, nn.Linear):
        positions = math.prod(x.shape[1:-1])
        writes = scribe.layer(name, module, channels(x.ids, -1), (positions, 1), (positions, 1))
        return Labels(spread(writes, (*x.shape[:-1], len(writes)), x.ids.ndim - 1))
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return _batch_norm(scribe, name, module, x)
    if isinstance(module, nn.LayerNorm):
        constants = [Constant(f"{name}.{k}", v) for k, v in module.named_parameters()]
        return _layer_norm(scribe, x, module.normalized_shape, *constants)
    if isinstance(module, nn.Flatten):
        return _flatten(scribe, x, module.start_dim, module.end_dim)
    if isinstance(module, nn.Unflatten):
        return _unflatten(scribe, x, module.dim, module.unflattened_size)
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return _softmax(scribe, x)
    if isinstance(module, nn.ChannelShuffle):
        return _channel_shuffle(scribe, x, module.groups)
    if isinstance(module, ELEMENTWISE):
        return x
    if isinstance(module, POOLING):
        return _spatial(module)(scribe, x)
    raise TraceError(
        f"the module {name!r} of type {type(module).__name__} is not understood: nothing says what it does to channels. "
        "Attention, recurrent and custom leaf modules are out of scope."
    )


def _convolution(scribe: Scribe, name: str, module: nn.Conv2d | nn.ConvTranspose2d, x: Labels) -> Labels:
    if x.ids.ndim != 4:
        raise TraceError(f"a convolution takes (N, C, H, W), here {tuple(x.shape)}")
    if x.shape[1] != module.in_channels:
        raise TraceError(f"{name} takes {module.in_channels} channels, here come {x.shape[1]}")
    reads = channels(x.ids, 1)
    cut, groups = len(reads) // module.groups, module.groups
    if 1 < groups < len(reads):
        blocks = reads.view(groups, cut)
        reads = torch.cat(
            [blocks[:1], *(scribe.tie(blocks[:1], block[None]) for block in blocks[1:])]
        ).flatten()
    weight = torch.empty(module.weight.shape, device="meta")
    probe = torch.empty(x.shape, device="meta")
    if isinstance(module, nn.ConvTranspose2d):
        out = F.conv_transpose2d(
            probe, weight, None, module.stride, module.padding, module.output_padding, groups, module.dilation  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        out = module._conv_forward(probe, weight, None)
    sizes = (x.shape[2], x.shape[3]), (out.shape[2], out.shape[3])
    writes = scribe.layer(name, module, reads, *sizes)
    if 1 < groups < module.in_channels:
        blocks = writes.view(groups, -1)
        for block in blocks[1:]:
            scribe.tie(blocks[0], block)
    return Labels(spread(writes, (1, len(writes), *out.shape[2:]), 1))


def _batch_norm(scribe: Scribe, name: str, module: nn.BatchNorm2d | nn.BatchNorm1d, x: Labels) -> Labels:
    ids = channels(x.ids, 1)
    if len(ids) != module.num_features:
        raise TraceError(f"{name} normalises {module.num_features} channels, here come {len(ids)}")
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, key)
        if value is not None:
            scribe.vector(f"{name}.{key}", value, 0, ids)
    return x


def _layer_norm(scribe: Scribe, x: Labels, shape: Sequence[int], *constants: Any, **named: Any) -> Labels:
    given = [c for c in (*constants, *named.values()) if isinstance(c, Constant)]
    if len(shape) != 1 or not given:
        raise TraceError("a layer norm is understood over the last dimension only, with a weight")
    ids = channels(x.ids, -1)
    for constant in given:
        scribe.vector(constant.name, constant.value, 0, ids)
    scribe.norm(given[0].name.rpartition(".")[0])
    return x


def _flatten(scribe: Scribe, x: Labels, start_dim: int = 0, end_dim: int = -1) -> Labels:
    return Labels(x.ids.flatten(start_dim, end_dim))


def _view(scribe: Scribe, x: Labels, *shape: Any) -> Labels:
    """View or reshape: a size that is written as a number does not shrink with the channels."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else shape
    written: Any = scribe.node.args[1:] or tuple(scribe.node.kwargs.values())
    if len(written) == 1 and isinstance(written[0], tuple | list):
        written = written[0]
    literal = [isinstance(size, int) and size > 1 for size in written]
    ids = x.ids.reshape(tuple(sizes))
    if len(literal) != ids.ndim:  # one node holds all sizes: they follow the input
        literal = [False] * ids.ndim
    return Labels(_rectangular(scribe, ids, literal))


def _unflatten(scribe: Scribe, x: Labels, dim: int, sizes: Sequence[int]) -> Labels:
    ids = x.ids.unflatten(dim, tuple(sizes))
    literal = [False] * ids.ndim
    for offset, size in enumerate(sizes):
        literal[dim % x.ids.ndim + offset] = size > 1
    return Labels(_rectangular(scribe, ids, literal))


def _rectangular(scribe: Scribe, ids: Tensor, literal: Sequence[bool]) -> Tensor:
    """Tie the labels along every dimension whose size is a literal, so that it stays full."""
    varying = [d for d in range(ids.ndim) if compact(ids).size(d) > 1]
    fixed = [d for d in varying if literal[d]]
    if not fixed:
        return ids
    if len(fixed) == len(varying):
        scribe.keep(ids, "a view with a literal number of channels; write it with x.size(...), -1 or flatten")
        return ids
    for dim in fixed:
        first = ids.narrow(dim, 0, 1)
        for at in range(1, ids.size(dim)):
            scribe.tie(first, ids.narrow(dim, at, 1))
    return ids


def _channel_shuffle(scribe: Scribe, x: Labels, groups: int) -> Labels:
    blocks = x.ids.unflatten(1, (groups, -1))
    literal = [False] * blocks.ndim
    literal[1] = True
    return Labels(_rectangular(scribe, blocks, literal).transpose(1, 2).flatten(1, 2))


def _pieces(
    scribe: Scribe, x: Labels, pieces: Sequence[Tensor], literal: bool, what: str
) -> tuple[Labels, ...]:
    """The parts of a chunk or split: equal parts stay equal, literal or unequal ones cannot shrink."""
    same = all(torch.equal(compact(pieces[0]), compact(piece)) for piece in pieces)
    if same:
        return tuple(Labels(piece) for piece in pieces)
    if literal or len({piece.shape for piece in pieces}) > 1:
        scribe.keep(
            x.ids, f"a {what} of literal or unequal sizes; use chunk, or sizes computed from x.size(1)"
        )
    else:
        for piece in pieces[1:]:
            scribe.tie(pieces[0], piece)
    return tuple(Labels(piece) for piece in pieces)


def _chunk(scribe: Scribe, x: Labels, chunks: int, dim: int = 0) -> tuple[Labels, ...]:
    return _pieces(scribe, x, x.ids.chunk(chunks, dim), False, "chunk")


def _split(scribe: Scribe, x: Labels, sizes: Any, dim: int = 0) -> tuple[Labels, ...]:
    written = scribe.node.args[1] if len(scribe.node.args) > 1 else next(iter(scribe.node.kwargs.values()))
    parts = written if isinstance(written, tuple | list) else [written]
    literal = any(isinstance(part, int) for part in parts)
    return _pieces(scribe, x, x.ids.split(sizes, dim), literal, "split")


def _getitem(scribe: Scribe, x: Any, index: Any) -> object:
    if not isinstance(x, Labels):
        return x[index]
    ids = x.ids[index]
    if not torch.equal(compact(ids).unique(), compact(x.ids).unique()):
        scribe.keep(x.ids, "an index that takes some of the channels; use chunk")
    return Labels(ids)


def _cat(scribe: Scribe, tensors: Sequence[Labels], dim: int = 0) -> Labels:
    if not all(isinstance(tensor, Labels) for tensor in tensors):
        raise TraceError("a concatenation with something that is no activation")
    return Labels(torch.cat([tensor.ids for tensor in tensors], dim))


def _binary(scribe: Scribe, a: Any, b: Any, **_: Any) -> Labels:
    """Element-wise operations of two operands."""
    if not isinstance(a, Labels):
        a, b = b, a
    if isinstance(b, Constant):
        return _with_constant(scribe, a, b)
    if not isinstance(b, Labels):
        return a  # type: ignore[no-any-return]
    shape = torch.broadcast_shapes(a.shape, b.shape)
    left, right = (
        a.ids.reshape([1] * (len(shape) - a.ids.ndim) + list(a.shape)),
        b.ids.reshape([1] * (len(shape) - b.ids.ndim) + list(b.shape)),
    )
    for one, other in ((left, right), (right, left)):
        stretched = [d for d in range(len(shape)) if one.size(d) == 1 and compact(other).size(d) > 1]
        if stretched:  # one channel meets many: it belongs to none of them, and must stay
            scribe.keep(one, "a single channel that is broadcast over many")
            return Labels(other.expand(shape))
    return Labels(scribe.tie(left.expand(shape), right.expand(shape)))


def _with_constant(scribe: Scribe, x: Labels, constant: Constant) -> Labels:
    """A parameter that is added or multiplied, such as a layer scale: cut along the channels."""
    offset = x.ids.ndim - constant.value.ndim
    small = compact(x.ids)
    dims = [
        d for d in range(constant.value.ndim) if constant.value.size(d) > 1 and small.size(d + offset) > 1
    ]
    if offset < 0 or len(dims) > 1:
        raise TraceError(f"{constant.name} of shape {tuple(constant.shape)} does not run along the channels")
    if dims:
        scribe.vector(constant.name, constant.value, dims[0], channels(x.ids, dims[0] + offset))
    return x


def _reduce(scribe: Scribe, x: Labels, dim: Any = None, keepdim: bool = False, **_: Any) -> Labels:
    dims = tuple(range(x.ids.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    small = compact(x.ids)
    if any(small.size(d) > 1 for d in dims):
        raise TraceError(f"a reduction over dimension {dims} mixes channels; only positions may be reduced")
    return Labels(x.ids.amax(dims, keepdim))


def _spatial(operation: Callable[..., Tensor]) -> Callable[..., Labels]:
    """Pooling and resizing: channels stay, positions change."""

    def run(scribe: Scribe, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        ids = channels(x.ids, 1)
        out = operation(torch.empty(x.shape, device="meta"), *args, **kwargs)
        if out.size(1) != len(ids):
            raise TraceError(f"{len(ids)} channels became {out.size(1)}")
        return Labels(spread(ids, out.shape, 1))

    return run


def _pad(scribe: Scribe, x: Labels, pad: Sequence[int], *args: Any, **kwargs: Any) -> Labels:
    ids = channels(x.ids, 1)
    out = F.pad(torch.empty(x.shape, device="meta"), tuple(pad))
    if len(pad) > 4:
        if min(pad) < 0 or len(pad) > 6:
            raise TraceError("channels may be padded with zeros, not cropped by a negative pad")
        ids = torch.cat([scribe.blank(pad[4]), ids, scribe.blank(pad[5])])
    return Labels(spread(ids, out.shape, 1))


def _softmax(scribe: Scribe, x: Labels, *_: Any, **__: Any) -> Labels:
    scribe.keep(x.ids, "a softmax over channels")
    return x


def _method(name: str) -> Callable[..., Labels]:
    """A view operation that runs on labels as it is."""

    def run(scribe: Scribe, x: Labels, *args: Any, **kwargs: Any) -> Labels:
        return Labels(getattr(x.ids, name)(*args, **kwargs))

    return run


def _same(scribe: Scribe, x: Labels, *args: Any, **kwargs: Any) -> Labels:
    return x


def _size(scribe: Scribe, x: Labels, dim: int | None = None) -> object:
    return x.shape if dim is None else x.shape[dim]


def _getattr(scribe: Scribe, x: Labels, name: str) -> object:
    known = {"shape": x.shape, "ndim": x.ids.ndim, "device": torch.device("cpu"), "dtype": torch.float32}
    if name not in known:
        raise TraceError(
            f"the attribute {name!r} of a tensor is not understood; known are {', '.join(known)}"
        )
    return known[name]


OPERATIONS: dict[str, Callable[..., object]] = {
    **dict.fromkeys(
        "relu relu6 hardtanh hardswish hardsigmoid sigmoid silu gelu leaky_relu elu selu celu tanh softplus mish dropout "
        "dropout2d feature_dropout alpha_dropout clamp clip contiguous clone detach float to neg abs exp sqrt square "
        "stochastic_depth".split(), _same),
    **dict.fromkeys("add sub mul div truediv true_divide maximum minimum".split(), _binary),
    **dict.fromkeys("mean sum amax amin".split(), _reduce),
    **{name: _method(name) for name in "permute transpose squeeze unsqueeze movedim swapaxes".split()},
    **{name: _spatial(getattr(F, name)) for name in "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate".split()},
    "boolean_dispatch": _spatial(F.max_pool2d),  # the name that torch gives its max_pool2d
    "flatten": _flatten, "view": _view, "reshape": _view, "unflatten": _unflatten, "chunk": _chunk, "split": _split,
    "getitem": _getitem, "cat": _cat, "concat": _cat, "pad": _pad, "softmax": _softmax, "log_softmax": _softmax,
    "size": _size, "dim": lambda scribe, x: x.ids.ndim, "getattr": _getattr, "layer_norm": _layer_norm,
    "channel_shuffle": _channel_shuffle,
}  # fmt: skip
