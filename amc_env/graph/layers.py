"""The effect of convolutions, linear layers and norms on channel labels.

A layer is cut where its weight is the ``weight`` of a `torch.nn` convolution or linear module, however it is
called. Other weights (computed in the forward, fixed kernels, one dimension) stay whole, and so do the
channels on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.graph.labels import (
    Constant,
    Labels,
    Size,
    Source,
    TraceError,
    Tracer,
    channels,
    spread,
    tie_along,
    varying,
)

FOLDABLE = (nn.BatchNorm2d, nn.BatchNorm1d)


def depthwise(module: nn.Module) -> bool:
    """Whether each output channel reads one input channel of its own."""
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and 1 < module.groups == module.in_channels


def unchanged(module: nn.Module) -> bool:
    """Whether a module has its class's own forward and no hooks."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def conv2d(
    tracer: Tracer,
    x: Labels,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Labels:
    """A convolution over height and width."""
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    value = _input(x, weight, 1, _value(weight).size(1) * groups)
    out = _positions(F.conv2d, x, value, settings)
    module = _module(weight, nn.Conv2d)
    if module is None or _pairs(stride, dilation, groups) != _pairs(
        module.stride, module.dilation, module.groups
    ):
        return _whole(tracer, x, out, math.prod(out) * value[0].numel())
    return _layer(tracer, weight, module, bias, x, (out[2], out[3]))


def conv_transpose2d(
    tracer: Tracer,
    x: Labels,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Labels:
    """A transposed convolution over height and width."""
    settings = {"stride": stride, "padding": padding, "output_padding": output_padding}
    value = _input(x, weight, 1, len(_value(weight)))
    out = _positions(F.conv_transpose2d, x, value, settings | {"groups": groups, "dilation": dilation})
    module = _module(weight, nn.ConvTranspose2d)
    if module is None or groups != module.groups:
        return _whole(tracer, x, out, math.prod(x.shape) * value[0].numel())
    return _layer(tracer, weight, module, bias, x, (out[2], out[3]))


def conv1d(
    tracer: Tracer,
    x: Labels,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Labels:
    """A convolution over one dimension, as in channel attention; it is never cut."""
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    value = _input(x, weight, 1, _value(weight).size(1) * groups)
    out = _positions(F.conv1d, x, value, settings)
    return _whole(tracer, x, out, math.prod(out) * value[0].numel())


def linear(tracer: Tracer, x: Labels, weight: Any, bias: Any = None) -> Labels:
    """A matrix product over the last dimension."""
    value = _input(x, weight, -1, _value(weight).size(1))
    module, positions = _module(weight, nn.Linear), math.prod(x.shape[:-1])
    if module is None:
        return _whole(tracer, x, (*x.shape[:-1], len(value)), positions * value.numel(), -1)
    source = Source(_owner(weight.name))
    writes = tracer.layer(source.layer, module, channels(x.ids, -1), (positions, 1), (positions, 1))
    _bias(tracer, weight, bias, writes)
    return Labels(spread(writes, (*x.shape[:-1], len(writes)), x.ids.ndim - 1), source)


def _layer(tracer: Tracer, weight: Constant, module: Any, bias: Any, x: Labels, out: Size) -> Labels:
    """A convolution that is cut; a grouped one keeps the same positions in each of its groups."""
    if x.shape[0] != 1:
        raise TraceError(
            f"one image is {x.shape[0]} at {_owner(weight.name)!r}: keep positions and views out of the "
            "batch dimension, or compress the part of the network before"
        )
    tied = module.groups > 1 and not depthwise(module)
    reads = channels(x.ids, 1)
    if tied:
        reads = tie_along(tracer, reads.view(module.groups, -1), 0).flatten()
    source = Source(_owner(weight.name))
    writes = tracer.layer(source.layer, module, reads, (x.shape[2], x.shape[3]), out)
    if tied:
        writes = tie_along(tracer, writes.view(module.groups, -1), 0).flatten()
    _bias(tracer, weight, bias, writes)
    return Labels(spread(writes, (1, len(writes), *out), 1), source)


def _bias(tracer: Tracer, weight: Constant, bias: Any, writes: Tensor) -> None:
    """Record a bias that is not the module's own, which the tracer knows already."""
    if not isinstance(bias, Constant) or bias.name != f"{_owner(weight.name)}.bias":
        entries(tracer, bias, writes)


def _whole(tracer: Tracer, x: Labels, out: tuple[int, ...], macs: int, dim: int = 1) -> Labels:
    """A layer that is not cut: all its input and output channels stay."""
    tracer.keep(x.ids, "weights that are not of a Conv2d, ConvTranspose2d or Linear of the network")
    tracer.fixed_cost(macs)
    dims = {dim % len(out), *(d for d in varying(x.ids) if d > 1)}
    shape = [size if d in dims else 1 for d, size in enumerate(out)]
    return Labels(tracer.blank(math.prod(shape)).view(shape).expand(out))


def _input(x: object, weight: Any, dim: int, expected: int) -> Tensor:
    """The weight's numbers; checks that the input fits them."""
    if not isinstance(x, Labels):
        raise TraceError(f"it takes {type(x).__name__}, expected the activations of an image batch")
    if x.shape[dim] != expected:
        hint = "" if dim == 1 else ": build the network for images of this size, or pool before it"
        raise TraceError(f"it takes {expected} channels, not {tuple(x.shape)}{hint}")
    return _value(weight)


def _positions(function: Any, x: Labels, weight: Tensor, settings: dict[str, Any]) -> tuple[int, ...]:
    """The output's shape."""
    try:
        return tuple(function(_meta(x.shape), _meta(weight.shape), **settings).shape)
    except RuntimeError as error:
        raise TraceError(
            f"images of {tuple(x.shape[2:])} are too small here; trace with larger ones ({error})"
        ) from error


def _meta(shape: torch.Size) -> Tensor:
    return torch.empty(shape, device="meta")


def _value(weight: Any) -> Tensor:
    if isinstance(weight, Labels):
        raise TraceError("its weights are computed from activations, which no plan can follow")
    value: Tensor = weight.value if isinstance(weight, Constant) else weight
    return value


def _module(weight: Any, kind: type[nn.Module]) -> Any:
    """The module whose ``weight`` this is, if it is of that kind; else None."""
    own = isinstance(weight, Constant) and weight.name.endswith(".weight") and isinstance(weight.owner, kind)
    return weight.owner if own else None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _pairs(*settings: Any) -> list[tuple[int, ...]]:
    """Each setting as a pair, one number for each dimension."""
    return [tuple(value) if isinstance(value, tuple | list) else (value, value) for value in settings]


def entries(tracer: Tracer, value: Any, ids: Tensor) -> None:
    """Record that a vector, whatever its origin, has one entry for each channel."""
    if isinstance(value, Constant):
        tracer.vector(value.name, value.value, 0, ids)
    elif isinstance(value, Labels):
        tracer.tie(ids, value.ids)
    elif isinstance(value, Tensor):
        tracer.keep(ids, "a vector of fixed size; make it a parameter or buffer")


def batch_norm(
    tracer: Tracer,
    x: Labels,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *settings: Any,
    **named: Any,
) -> Labels:
    """A batch norm by its running statistics: an affine map of each channel."""
    ids = channels(x.ids, 1)
    if running_mean is None or training:
        raise TraceError("it has no running statistics: what it computes depends on the other images")
    if len(_value(running_mean)) != len(ids):
        raise TraceError(f"it normalises {len(_value(running_mean))} channels, not {len(ids)}")
    for value in (weight, bias, running_mean, running_var):
        entries(tracer, value, ids)
    if isinstance(running_mean, Constant) and type(running_mean.owner) in FOLDABLE:
        tracer.fold(x.source, _owner(running_mean.name))
    return Labels(x.ids)


def instance_norm(
    tracer: Tracer,
    x: Labels,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    *settings: Any,
    **named: Any,
) -> Labels:
    """An instance norm, over the positions of each channel."""
    ids = channels(x.ids, 1)
    for value in (running_mean, running_var, weight, bias):
        entries(tracer, value, ids)
    return Labels(x.ids)


def layer_norm(
    tracer: Tracer, x: Labels, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Labels:
    """A layer norm over the last dimension; its statistics run over the kept channels."""
    if tuple(normalized_shape) != (x.shape[-1],) or not isinstance(weight, Constant):
        given = f"{tuple(normalized_shape)}, {'without a' if weight is None else 'with a'} weight"
        raise TraceError(
            f"a layer norm is understood over the last dimension, here {x.shape[-1]}, with a weight of the "
            f"network; this one runs over {given}"
        )
    ids = channels(x.ids, -1)
    for value in (weight, bias):
        entries(tracer, value, ids)
    tracer.norm(weight.name)
    return Labels(x.ids)


def group_norm(
    tracer: Tracer, x: Labels, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Labels:
    """A group norm, over the kept channels of each group; all groups keep the same positions."""
    ids = channels(x.ids, 1)
    if not isinstance(weight, Constant) or len(weight.value) != len(ids):
        raise TraceError(f"a group norm is understood with a weight of the network, for {len(ids)} channels")
    if num_groups == len(ids):
        tracer.keep(ids, "a group norm with one channel a group; use a batch norm")
    elif num_groups > 1:
        tie_along(tracer, ids.view(num_groups, -1), 0)
    for value in (weight, bias):
        entries(tracer, value, ids)
    tracer.norm(weight.name)
    return Labels(x.ids)


def prelu(tracer: Tracer, x: Labels, weight: Any) -> Labels:
    """A PReLU with one slope for all channels, or one for each."""
    if _value(weight).numel() > 1:
        entries(tracer, weight, channels(x.ids, 1))
    return Labels(x.ids)
