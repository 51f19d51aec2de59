"""A plan and dense weights make a physically smaller network."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.graph import Graph, Layer, Vector
from amc_env.plan import Plan

Solve = Callable[[Layer, int, Tensor, Tensor], Tensor]
"""(layer, channel group, dense weights ``(rows, d)``, kept columns ``(k,)``) -> weights ``(rows, k)``."""


def drop(layer: Layer, block: int, weight: Tensor, columns: Tensor) -> Tensor:
    """A `Solve` that repairs nothing: the dense weights of the columns that stay."""
    return weight[:, columns]


class Surgeon:
    """Cuts one network again and again: a copy of it is made once and refilled for each plan.

    Args:
        model: the dense network; it is copied, never written.
        graph: of it.
        fold: put each batch norm that directly follows a layer into that layer's weights and bias. The copy is then
            for evaluation only.
    """

    def __init__(self, model: nn.Module, graph: Graph, *, fold: bool) -> None:
        self.graph = graph
        self.network = copy.deepcopy(model).requires_grad_(not fold)
        self.folded: set[str] = set()
        if fold:
            self.network.eval()
            for layer, norm in graph.folds:
                fold_batch_norm(self.network, layer, norm)
                self.folded.add(norm)
        self._owners = {layer.name: self.network.get_submodule(layer.name) for layer in graph.layers}
        self._dense = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self._vectors = [v for v in graph.vectors if v.name.rpartition(".")[0] not in self.folded]
        self._vectors += [
            Vector(f"{layer}.bias", 0, graph.layer(layer).writes, 1, True)
            for layer, norm in graph.folds
            if norm in self.folded and not graph.layer(layer).bias
        ]

    def cut(self, plan: Plan, solve: Solve = drop) -> nn.Module:
        """The copy, filled with the network that a plan leaves; the next call refills the same module.

        Args:
            plan: made for this graph.
            solve: gives the weights of a layer that lost inputs.
        """
        mask = self.graph.mask(plan.kept)
        with torch.no_grad():
            for layer in self.graph.layers:
                weight = cut_weight(layer, self._dense[f"{layer.name}.weight"], mask, solve)
                self._fill(self._owners[layer.name], "weight", weight)
                resize(self._owners[layer.name], layer, mask)
            for vector in self._vectors:
                kept = torch.from_numpy(np.flatnonzero(mask[vector.atoms]))
                owner, _, key = vector.name.rpartition(".")
                self._fill(
                    self.network.get_submodule(owner),
                    key,
                    self._dense[vector.name].index_select(vector.dim, kept),
                )
        return self.network

    def _fill(self, module: nn.Module, key: str, value: Tensor) -> None:
        old = getattr(module, key)
        if isinstance(old, nn.Parameter):
            setattr(module, key, nn.Parameter(value, requires_grad=old.requires_grad))
        else:
            setattr(module, key, value)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.num_features = len(value)
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = (len(value),)


def cut(model: nn.Module, graph: Graph, plan: Plan, solve: Solve = drop) -> nn.Module:
    """A new, trainable, physically smaller network; the dense one is not touched.

    Raises:
        PlanError: for a plan that does not fit the graph.
    """
    plan.check(graph)
    return Surgeon(model, graph, fold=False).cut(plan, solve)


def masked(model: nn.Module, graph: Graph, plan: Plan, solve: Solve = drop) -> nn.Module:
    """A full-size copy in which every weight that reads a removed channel is zero: what `cut` must equal.

    The statistics of a layer norm, which a masked channel would enter, are not covered: see `Graph.norms`.

    Raises:
        PlanError: for a plan that does not fit the graph.
    """
    plan.check(graph)
    mask = graph.mask(plan.kept)
    network = copy.deepcopy(model)
    for layer in graph.layers:
        parameter = network.get_submodule(layer.name).weight
        if layer.kind != "depthwise":
            parameter.data = masked_weight(layer, parameter.data, mask, solve)  # type: ignore[union-attr, arg-type]
    return network


def cut_weight(layer: Layer, weight: Tensor, mask: NDArray[np.bool_], solve: Solve) -> Tensor:
    """The weights of a layer with only the rows and columns of kept atoms, the columns solved for."""
    reads, writes = _flags(mask[layer.reads]), _flags(mask[layer.writes])
    if layer.kind == "depthwise":
        return weight[writes]
    if layer.kind == "transposed":
        return weight[reads][:, writes[: weight.size(1)]]
    parts = []
    for block, (rows, columns) in enumerate(_blocks(layer, reads, writes)):
        inputs = weight[rows].flatten(1)
        parts.append(solve(layer, block, inputs, columns))
    return torch.cat(parts).unflatten(1, (-1, *weight.shape[2:])) if weight.ndim == 4 else parts[0]


def masked_weight(layer: Layer, weight: Tensor, mask: NDArray[np.bool_], solve: Solve) -> Tensor:
    """The weights of a layer at full size, zero wherever they read a removed atom."""
    reads, everything = _flags(mask[layer.reads]), torch.ones(layer.c_out, dtype=torch.bool)
    if layer.kind == "transposed":
        return weight * reads.view(-1, 1, 1, 1)
    flat = torch.zeros_like(weight).flatten(1)
    for block, (rows, columns) in enumerate(_blocks(layer, reads, everything)):
        flat[rows[:, None], columns] = solve(layer, block, weight[rows].flatten(1), columns)
    return flat.view_as(weight)


def _blocks(layer: Layer, reads: Tensor, writes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each channel group of a layer, its kept rows and the flattened columns that they read."""
    found = []
    for block in range(layer.groups):
        own = reads.view(layer.groups, -1)[block].repeat_interleave(layer.taps)
        start = block * layer.c_out // layer.groups
        rows = writes.view(layer.groups, -1)[block].nonzero().flatten() + start
        found.append((rows, own.nonzero().flatten()))
    return found


def _flags(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask)


def resize(module: nn.Module, layer: Layer, mask: NDArray[np.bool_]) -> None:
    """Bring a layer's own record of its channels in line with its weights."""
    reads, writes = int(mask[layer.reads].sum()), int(mask[layer.writes].sum())
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = reads, writes
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.in_channels, module.out_channels = reads, writes
        module.groups = reads if layer.kind == "depthwise" else layer.groups


def fold_batch_norm(model: nn.Module, layer: str, norm: str) -> None:
    """Put a batch norm into the weights and bias of the layer before it, and an identity in its place."""
    conv, bn = model.get_submodule(layer), model.get_submodule(norm)
    assert isinstance(bn, nn.BatchNorm2d | nn.BatchNorm1d)
    mean, variance = bn.running_mean, bn.running_var
    assert mean is not None and variance is not None
    scale = (variance + bn.eps).rsqrt()
    scale = scale if bn.weight is None else scale * bn.weight.detach()
    shift = -mean * scale if bn.bias is None else bn.bias.detach() - mean * scale
    weight: Tensor = conv.weight.detach()  # type: ignore[union-attr, operator, assignment]
    dim = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    across = [-1 if d == dim else 1 for d in range(weight.ndim)]
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach()  # type: ignore[union-attr, operator]
    conv.weight = nn.Parameter(weight * scale.view(across), requires_grad=False)
    conv.bias = nn.Parameter(bias * scale + shift, requires_grad=False)
    model.set_submodule(norm, nn.Identity())
