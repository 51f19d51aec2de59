"""What each module that `torch.fx` does not look into does to channel labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from amc_env.graph.arithmetic import layer_norm, softmax
from amc_env.graph.labels import Constant, Labels, Scribe, TraceError, channels, spread, tie_along
from amc_env.graph.shapes import channel_shuffle, rectangular, spatial

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU,
    nn.ELU, nn.SELU, nn.CELU, nn.Tanh, nn.Softplus, nn.Softsign, nn.Mish, nn.LogSigmoid, nn.Threshold,
    nn.Identity,
    nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
SPATIAL = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample,
    nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d,
)  # fmt: skip


def apply_leaf(scribe: Scribe, name: str, module: nn.Module, x: object) -> Labels:
    """Run a leaf module on labels.

    Raises:
        TraceError: for a module of unknown kind, or one that computes more than its kind says.
    """
    if not isinstance(x, Labels):
        raise TraceError(
            f"module {name!r} takes {type(x).__name__}, expected the activations of an image batch"
        )
    _refuse_hidden(name, module)
    if isinstance(module, ELEMENTWISE):
        return x
    for kind, run in KINDS.items():
        if isinstance(module, kind):
            return run(scribe, name, module, x)
    if isinstance(module, SPATIAL):
        return spatial(module)(scribe, x)
    raise TraceError(
        f"the module {name!r} of type {type(module).__name__} is not understood: nothing says what it does "
        "to channels. Attention, recurrent and other leaf modules are out of scope; put another in its "
        "place, or compress the convolutional part of the network alone"
    )


def _refuse_hidden(name: str, module: nn.Module) -> None:
    """A hook or a parametrization changes what a module computes, and no tracing sees it."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise TraceError(f"module {name!r} has forward hooks, which are not traced; remove them first")
    if parametrize.is_parametrized(module):
        raise TraceError(
            f"module {name!r} has parametrized weights; call torch.nn.utils.parametrize."
            "remove_parametrizations first"
        )


def depthwise(module: nn.Module) -> bool:
    """Whether each output channel reads one input channel of its own."""
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and 1 < module.groups == module.in_channels


def _convolution(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    if x.ids.ndim != 4 or x.shape[1] != module.in_channels:
        raise TraceError(f"{name!r} takes (N, {module.in_channels}, H, W), here comes {tuple(x.shape)}")
    tied = module.groups > 1 and not depthwise(module)
    reads = channels(x.ids, 1)
    if tied:
        reads = tie_along(scribe, reads.view(module.groups, -1), 0).flatten()
    out = _output_size(module, x.shape[2:])
    writes = scribe.layer(name, module, reads, (x.shape[2], x.shape[3]), out)
    if tied:
        writes = tie_along(scribe, writes.view(module.groups, -1), 0).flatten()
    return Labels(spread(writes, (1, len(writes), *out), 1))


def _output_size(module: Any, size: Sequence[int]) -> tuple[int, int]:
    """Height and width that a convolution makes of an input's."""
    found = []
    for d in range(2):
        reach, stride = module.dilation[d] * (module.kernel_size[d] - 1) + 1, module.stride[d]
        if isinstance(module, nn.ConvTranspose2d):
            more = reach - 2 * module.padding[d] + module.output_padding[d]
            found.append((size[d] - 1) * stride + more)
        else:  # torch keeps the padding of each side, last dimension first, also where it was given as a word
            padded = size[d] + sum(module._reversed_padding_repeated_twice[2 - 2 * d : 4 - 2 * d])
            found.append((padded - reach) // stride + 1)
    if min(found) < 1:
        raise TraceError(f"images of {tuple(size)} are too small here; trace with larger ones")
    return found[0], found[1]


def _linear(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    if x.shape[-1] != module.in_features:
        raise TraceError(
            f"{name!r} takes {module.in_features} features, here come {x.shape[-1]}: build the network for "
            "images of this size, or pool before it"
        )
    positions = math.prod(x.shape[1:-1])
    writes = scribe.layer(name, module, channels(x.ids, -1), (positions, 1), (positions, 1))
    return Labels(spread(writes, (*x.shape[:-1], len(writes)), x.ids.ndim - 1))


def _batch_norm(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    ids = channels(x.ids, 1)
    if len(ids) != module.num_features:
        raise TraceError(f"{name!r} normalises {module.num_features} channels, here come {len(ids)}")
    if module.running_mean is None:
        raise TraceError(f"{name!r} has no running statistics: what it computes depends on the other images")
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, key)
        if value is not None:
            scribe.vector(f"{name}.{key}", value, 0, ids)
    return x


def _layer_norm(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    constants = {key: Constant(f"{name}.{key}", value) for key, value in module.named_parameters()}
    return layer_norm(scribe, x, module.normalized_shape, constants.get("weight"), constants.get("bias"))


def _group_norm(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    """Its statistics run over the kept channels of each group; groups keep the same positions."""
    ids = channels(x.ids, 1)
    if len(ids) != module.num_channels or module.weight is None:
        raise TraceError(f"{name!r} is understood with a weight, over {module.num_channels} channels")
    if module.num_groups == module.num_channels:
        scribe.keep(ids, "a group norm with one channel a group; use a batch norm")
    elif module.num_groups > 1:
        tie_along(scribe, ids.view(module.num_groups, -1), 0)
    for key in ("weight", "bias"):
        scribe.vector(f"{name}.{key}", getattr(module, key), 0, ids)
    scribe.norm(f"{name}.weight")
    return x


def _prelu(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    if module.num_parameters > 1:
        scribe.vector(f"{name}.weight", module.weight, 0, channels(x.ids, 1))
    return x


def _unflatten(scribe: Scribe, name: str, module: Any, x: Labels) -> Labels:
    dim = module.dim % x.ids.ndim
    fixed = [dim + at for at, size in enumerate(module.unflattened_size) if size > 1]
    return Labels(rectangular(scribe, x.ids.unflatten(module.dim, tuple(module.unflattened_size)), fixed))


KINDS: dict[Any, Callable[[Scribe, str, Any, Labels], Labels]] = {
    nn.Conv2d | nn.ConvTranspose2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm2d | nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Flatten: lambda scribe, name, module, x: Labels(x.ids.flatten(module.start_dim, module.end_dim)),
    nn.Unflatten: _unflatten,
    nn.Softmax | nn.LogSoftmax: lambda scribe, name, module, x: softmax(scribe, x, module.dim),
    nn.ChannelShuffle: lambda scribe, name, module, x: channel_shuffle(scribe, x, module.groups),
}
