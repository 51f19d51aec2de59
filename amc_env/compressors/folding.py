"""Puts batch norms into the layers before them, for evaluation."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.graph.structure import Graph


def folded(model: nn.Module, graph: Graph, device: torch.device | None = None) -> nn.Module:
    """A copy for evaluation, each batch norm that follows a layer put into that layer."""
    network = copy.deepcopy(model).to(device).requires_grad_(False).eval()
    for name, norm in graph.folds:
        _fold(network, name, norm)
    return network


def _fold(model: nn.Module, layer: str, norm: str) -> None:
    """Fold a batch norm into the weights and bias of the layer before it; an identity replaces it."""
    conv: Any = model.get_submodule(layer)
    bn: Any = model.get_submodule(norm)
    mean = bn.running_mean
    scale = (bn.running_var + bn.eps).rsqrt()
    scale = scale if bn.weight is None else scale * bn.weight.detach()
    shift = -mean * scale if bn.bias is None else bn.bias.detach() - mean * scale
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach()
    conv.weight = nn.Parameter(_scale_rows(conv, scale), requires_grad=False)
    conv.bias = nn.Parameter(bias * scale + shift, requires_grad=False)
    model.set_submodule(norm, nn.Identity())


def _scale_rows(conv: Any, scale: Tensor) -> Tensor:
    """The weights with each output channel multiplied by its entry of ``scale``."""
    weight: Tensor = conv.weight.detach()
    if isinstance(conv, nn.ConvTranspose2d):  # (in, out / groups, ...)
        across = scale.view(conv.groups, -1).repeat_interleave(len(weight) // conv.groups, dim=0)
        return weight * across[..., None, None]
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))
