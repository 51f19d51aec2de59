"""The full-size masked network of a plan, with which cut networks are compared."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from amc_env.compressors.surgery import Solve, drop, problems_of
from amc_env.graph.structure import Graph, Layer
from amc_env.plan import Plan


def masked(model: nn.Module, graph: Graph, plan: Plan, solve: Solve = drop) -> nn.Module:
    """A full-size copy that computes what `cut` must compute.

    Every weight that reads a removed channel is zero, and statistics over channels skip removed channels.

    Raises:
        PlanError: for a plan that does not fit the graph.
    """
    plan.check(graph)
    mask = graph.mask(plan.kept)
    network = copy.deepcopy(model)
    for layer in graph.layers:
        if layer.kind != "depthwise":
            weight = network.get_parameter(f"{layer.name}.weight")
            weight.data = masked_weight(layer, weight.data, mask, solve)
    kept = {v.name: torch.from_numpy(np.flatnonzero(mask[v.atoms])) for v in graph.vectors}
    return _Masked(network, {id(network.get_parameter(name)): kept[name] for name in graph.norms})


class _Masked(nn.Module):
    """A network in which layer norms and group norms only see kept channels.

    Args:
        network: that calls them.
        kept: by identity of a norm's weight, the channels that it sees.
    """

    def __init__(self, network: nn.Module, kept: dict[int, Tensor]) -> None:
        super().__init__()
        self.network, self.kept = network, kept

    def forward(self, images: Any) -> Any:
        with _KeptStatistics(self.kept):
            return self.network(images)


class _KeptStatistics(TorchFunctionMode):
    def __init__(self, kept: dict[int, Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        norms: dict[Any, Any] = {
            F.layer_norm: self._layer_norm,
            torch.layer_norm: self._layer_norm,
            F.group_norm: self._group_norm,
            torch.group_norm: self._group_norm,
        }
        norm = norms.get(function)
        if norm is None or id(args[2] if len(args) > 2 else given.get("weight")) not in self.kept:
            return function(*args, **given)  # among them the norms outside of the part that is cut
        return norm(*args, **given)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        at, y = self.kept[id(weight)], torch.zeros_like(input)
        shift = None if bias is None else bias[at]
        y[..., at] = F.layer_norm(input[..., at], (len(at),), weight[at], shift, eps)
        return y

    def _group_norm(
        self,
        input: Tensor,
        num_groups: int,
        weight: Tensor,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        at, y = self.kept[id(weight)], torch.zeros_like(input)
        shift = None if bias is None else bias[at]
        y[:, at] = F.group_norm(input[:, at], num_groups, weight[at], shift, eps)
        return y


def masked_weight(layer: Layer, weight: Tensor, mask: NDArray[np.bool_], solve: Solve) -> Tensor:
    """A layer's full-size weights, zero if they read a removed atom.

    Args:
        layer: of the graph.
        weight: its dense weights.
        mask: ``(atoms,)`` bool, true where an atom is kept.
        solve: computes the weights that read kept atoms.
    """
    reads, everything = torch.from_numpy(mask[layer.reads]), torch.ones(layer.c_out, dtype=torch.bool)
    if layer.kind == "transposed":
        return weight * reads.view(-1, 1, 1, 1)
    flat = torch.zeros_like(weight).flatten(1)
    for problem, rows in problems_of(layer, weight, reads, everything):
        (flat[rows[:, None], problem.columns],) = solve([problem])
    return flat.view_as(weight)
