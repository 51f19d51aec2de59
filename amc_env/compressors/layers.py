"""Decisions on layers instead of channel groups: a count says how much of a layer's weights is kept.

A plan keeps its form. The graph of these compressors has, for each layer that is decided, a group of as many
positions as there are steps, and a count keeps the first of them: with `fine_grained` 8 of 100 positions are
8 % of a layer's weights, with `weight_sharing` 5 of 9 are 5 bits a weight, with `low_rank` they are ranks.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from amc_env.compressors import Errors
from amc_env.compressors.remembered import Remembered
from amc_env.cost import Ints, Macs, Params, dense_widths, weights
from amc_env.execution import lay_channels_last
from amc_env.graph.structure import Graph, Group, Layer
from amc_env.plan import Plan

UNITS = {"macs": "MACs", "params": "parameters", "bits": "bits"}
FLOAT = 32  # bits of a number that is stored as it is


class Method(Protocol):
    """How a layer is compressed.

    Attributes:
        name: for messages.
    """

    name: str

    def choices(self, layer: Layer) -> Ints:
        """The possible counts, ascending; empty if it must stay whole."""

    def costs(self, layer: Layer, resource: str) -> Ints:
        """``(whole + 1,)``, the cost of the layer's weights at each count from 0.

        Args:
            layer: with choices.
            resource: a key of `UNITS`.
        """

    def module(self, layer: Layer, count: int) -> nn.Module:
        """A trainable module that replaces the dense one."""


class LayerPrices:
    """A sum over layers.

    Args:
        unit: of the cost.
        tables: for each decision, its cost at each count from 0.
        fixed: the cost of everything else.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    pairwise = True

    def __init__(self, unit: str, tables: Sequence[Ints], fixed: int) -> None:
        self.unit, self._fixed = unit, fixed
        self._flat: Ints = np.concatenate(tables)
        self._starts: Ints = np.cumsum([0, *map(len, tables[:-1])])

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` costs of plans ``(..., groups)``."""
        total: Ints = self._flat[self._starts + np.asarray(counts)].sum(-1) + self._fixed
        return total

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` costs of the plan ``(groups,)`` with one group's count replaced by each choice."""
        start = self._starts[group]
        found: Ints = self(counts) - self._flat[start + counts[group]] + self._flat[start + choices]
        return found


class LayerCompressor:
    """Spends an action on one layer, by a method.

    Args:
        graph: of the dense network, by channels.
        method: of compression.

    Raises:
        ValueError: if the method leaves every layer whole.
    """

    errors: Errors | None = None
    losses: Errors | None = None

    def __init__(self, graph: Graph, method: Method) -> None:
        self.method = method
        decided = [
            (index, method.choices(layer))
            for index, layer in enumerate(graph.layers)
            if layer.name not in graph.kept_layers
        ]
        decided = [(index, choices) for index, choices in decided if len(choices)]
        if not decided:
            raise ValueError(f"{method.name} leaves every layer of this network whole: nothing to decide")
        self.layers = [graph.layers[index] for index, _ in decided]
        self.choices: Sequence[Ints] = [choices for _, choices in decided]
        sizes = [len(method.costs(layer, "params")) - 1 for layer in self.layers]
        self.graph = by_layer(graph, [(index, size) for (index, _), size in zip(decided, sizes, strict=True)])
        self._dense = dense_widths(graph)
        self._channels = graph

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The first ``count`` positions."""
        return tuple(range(count))

    def prices(self, resource: str) -> LayerPrices:
        """The prices of plans in a resource, a key of `UNITS`."""
        if resource not in UNITS:
            raise ValueError(f"{self.method.name} cannot price {resource!r}; it knows {', '.join(UNITS)}")
        dense: int = int((Macs if resource == "macs" else Params)(self._channels)(self._dense))
        if resource == "macs":
            decided = sum(la.positions * weights(la, la.c_in, la.c_out) for la in self.layers)
        else:
            decided = sum(weights(la, la.c_in, la.c_out) for la in self.layers)
        fixed = (dense - decided) * (FLOAT if resource == "bits" else 1)
        tables = [self.method.costs(layer, resource) for layer in self.layers]
        return LayerPrices(UNITS[resource], tables, fixed)


def by_layer(graph: Graph, sizes: Sequence[tuple[int, int]]) -> Graph:
    """A graph whose groups are layers, with atoms of their own after those of the channels.

    Args:
        graph: of the dense network.
        sizes: for each decision, the index of its layer and the number of positions.
    """
    ends = np.cumsum([graph.atoms, *(size for _, size in sizes)])
    groups = tuple(
        Group(at, np.arange(ends[at], ends[at + 1]), (index,), size, 1)
        for at, (index, size) in enumerate(sizes)
    )
    fixed = np.concatenate([np.ones(graph.atoms, dtype=bool), np.zeros(ends[-1] - graph.atoms, dtype=bool)])
    return replace(graph, groups=groups, atoms=int(ends[-1]), fixed=fixed)


def names_of(network: nn.Module) -> dict[str, list[str]]:
    """All names of each module by its first: the same module may have several."""
    names: dict[int, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return {own[0]: own for own in names.values()}


def fill(network: nn.Module, plan: Plan, compressor: LayerCompressor, make: Callable[..., nn.Module]) -> None:
    """Replace each layer that a plan compresses by its module.

    Args:
        network: a copy of the dense one, changed in place; a layer that is whole must be the dense one.
        plan: of the compressor's graph.
        compressor: of it.
        make: called with a layer and a count.

    Raises:
        PlanError: for a plan of another network or compressor.
    """
    plan.check(compressor.graph)
    names = names_of(network)
    for layer, group, kept in zip(compressor.layers, compressor.graph.groups, plan.kept, strict=True):
        if kept is not None and len(kept) < len(group):
            module = make(layer, len(kept))
            for name in names[layer.name]:
                network.set_submodule(name, module)


class LayerNetworks:
    """The networks of plans, for evaluation; modules are cached by layer and count.

    Args:
        model: the dense network, in evaluation mode.
        compressor: of its layers.
        device: where networks are run.
    """

    def __init__(self, model: nn.Module, compressor: LayerCompressor, device: torch.device) -> None:
        self.graph, self.device, self._compressor = compressor.graph, device, compressor
        self._network = self._ready(model)
        names = names_of(self._network)
        self._dense = {
            name: self._network.get_submodule(layer.name)
            for layer in compressor.layers
            for name in names[layer.name]
        }
        self._known = Remembered[nn.Module](least=len(self._dense))

    def network(self, plan: Plan) -> nn.Module:
        """The network of a plan; the next call overwrites the same module."""
        for name, module in self._dense.items():
            self._network.set_submodule(name, module)
        fill(self._network, plan, self._compressor, self._module)
        return self._network

    def _module(self, layer: Layer, count: int) -> nn.Module:
        if (known := self._known.get((layer.name, count))) is not None:
            return known
        module = self._ready(self._compressor.method.module(layer, count))
        nbytes = sum(tensor.nbytes for tensor in module.state_dict().values())
        return self._known.add((layer.name, count), module, nbytes)

    def _ready(self, module: nn.Module) -> nn.Module:
        ready = copy.deepcopy(module).to(self.device).requires_grad_(False).eval()
        return lay_channels_last(ready) if self.graph.channels_last else ready
