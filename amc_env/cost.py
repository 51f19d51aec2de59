"""The cost of a network under a plan, in whole numbers: MACs, parameters, and other prices.

*Source* of the formulas: Howard et al., "MobileNets" (2017), section 3.1, for standard, depthwise and
pointwise convolutions; a grouped convolution joins each output channel to the inputs of its group only. A
layer with N filters over M input channels, kernel K x K, G groups and an output of H x W positions takes
H W K^2 N M / G multiply-accumulates for one image, biases not counted. Depthwise is G = N = M. A transposed
convolution applies its kernel at the positions of its input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from amc_env.graph.structure import Graph, Layer

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Widths:
    """The numbers of kept channels, from which every cost is computed.

    Attributes:
        reads: ``(..., layers)`` input channels of each layer.
        writes: ``(..., layers)`` output channels of each layer.
        entries: ``(...)`` numbers in vectors (biases, batch norm, layer scale) that belong to channels.
    """

    reads: Ints
    writes: Ints
    entries: Ints


class Resource(Protocol):
    """A cost in whole units.

    Attributes:
        unit: its name, for messages.
        bilinear: whether each layer costs a product of its two widths.
    """

    unit: str
    bilinear: bool

    def __call__(self, widths: Widths) -> Ints:
        """``(...)`` int64, the costs of networks with these widths."""


class Prices(Protocol):
    """The prices of a compressor's plans in one resource; a plan is given by its counts.

    Adding to a count may lower the cost.

    Attributes:
        unit: of the costs, for messages.
        pairs: pairs of groups (one, later one) whose joint cost may differ from the sum of their costs.
        pairwise: whether a cost is a constant plus one term for each group and one for each of those pairs.
    """

    unit: str
    pairs: tuple[tuple[int, int], ...]
    pairwise: bool

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` int64, the costs of plans ``(..., groups)``."""

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` costs of the plan ``(groups,)`` with one group's count replaced by each choice."""


def macs(layer: Layer, reads: int, writes: int) -> int:
    """Multiply-accumulates of one layer for one image; see the module's source."""
    return layer.positions * weights(layer, reads, writes)


def weights(layer: Layer, reads: int, writes: int) -> int:
    """The size of a layer's weight tensor with these numbers of input and output channels."""
    inputs = 1 if layer.kind == "depthwise" else reads // layer.groups
    return layer.taps * inputs * writes


class Macs:
    """Multiply-accumulates of all layers for one image."""

    unit, bilinear = "MACs", True

    def __init__(self, graph: Graph) -> None:
        self._weights = _Weights(graph)
        self._positions = np.array([layer.positions for layer in graph.layers])
        self._fixed = graph.fixed_macs

    def __call__(self, widths: Widths) -> Ints:
        """``(...)`` MACs."""
        total: Ints = self.by_layer(widths).sum(-1) + self._fixed
        return total

    def by_layer(self, widths: Widths) -> Ints:
        """``(..., layers)`` MACs of each layer."""
        each: Ints = self._weights(widths) * self._positions
        return each


class Params:
    """Trainable parameters, batch norm and biases included."""

    unit, bilinear = "parameters", True

    def __init__(self, graph: Graph) -> None:
        self._weights = _Weights(graph)
        self._fixed = graph.fixed_params

    def __call__(self, widths: Widths) -> Ints:
        """``(...)`` parameters."""
        total: Ints = self._weights(widths).sum(-1) + widths.entries + self._fixed
        return total


RESOURCES: dict[str, Callable[[Graph], Resource]] = {"macs": Macs, "params": Params}


class _Weights:
    """``(..., layers)`` sizes of the weight tensors."""

    def __init__(self, graph: Graph) -> None:
        self._depthwise = np.array([layer.kind == "depthwise" for layer in graph.layers])
        self._taps = np.array([layer.taps for layer in graph.layers])
        self._groups = np.array([layer.groups for layer in graph.layers])

    def __call__(self, widths: Widths) -> Ints:
        inputs = widths.reads // self._groups  # that one output reads
        inputs[..., self._depthwise] = 1
        result: Ints = self._taps * inputs * widths.writes
        return result


class WidthTable:
    """Widths as a sum of one table row for each group, so that prices follow from counts.

    Args:
        graph: of the dense network.
        orders: for each group its positions, the most important first; "keep k" keeps the first k of them.

    Attributes:
        touched: ``(groups, layers)`` bool, whether a layer reads or writes channels of a group.
    """

    def __init__(self, graph: Graph, orders: Sequence[Ints]) -> None:
        self._layers = len(graph.layers)
        per_atom = _per_atom(graph)
        self._base: Ints = per_atom[graph.fixed].sum(0)
        blocks = []
        for group, order in zip(graph.groups, orders, strict=True):
            rows = per_atom[group.atoms[order]].cumsum(0)
            blocks += [np.zeros_like(rows[:1]), rows]  # row k: what the group's first k positions stand for
        self._rows: Ints = np.concatenate(blocks)
        sizes = [len(group) + 1 for group in graph.groups]
        self._starts: Ints = np.cumsum([0, *sizes[:-1]])
        touched = [block[-1, :-1].reshape(2, -1).sum(0) > 0 for block in blocks[1::2]]
        self.touched: NDArray[np.bool_] = np.reshape(touched, (len(touched), self._layers))

    def widths(self, counts: Sequence[int] | Ints) -> Widths:
        """The widths of the networks that keep ``counts``, ``(..., groups)``."""
        return self._unpack(self._sum(counts))

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Widths:
        """``(choices, ...)`` widths for ``counts`` with one group's count replaced by each of ``choices``."""
        start = self._starts[group]
        others = self._sum(counts) - self._rows[start + counts[group]]
        return self._unpack(others + self._rows[start + choices])

    def _sum(self, counts: Sequence[int] | Ints) -> Ints:
        total: Ints = self._base + self._rows.take(self._starts + counts, axis=0).sum(-2)
        return total

    def _unpack(self, rows: Ints) -> Widths:
        return Widths(rows[..., : self._layers], rows[..., self._layers : -1], rows[..., -1])


class WidthPrices:
    """Costs of plans that remove channels, computed from the widths.

    Args:
        table: of the network and the orders in which its channels go.
        resource: the cost of widths.
    """

    def __init__(self, table: WidthTable, resource: Resource) -> None:
        self.unit, self._table, self._resource = resource.unit, table, resource
        together = table.touched.astype(np.int64) @ table.touched.T.astype(np.int64)
        self.pairs = tuple((int(a), int(b)) for a, b in np.argwhere(np.triu(together, 1)))
        self.pairwise = resource.bilinear or bool((table.touched.sum(0) <= 2).all())

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` costs of plans ``(..., groups)``."""
        return self._resource(self._table.widths(counts))

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` costs of the plan ``(groups,)`` with one group's count replaced by each choice."""
        return self._resource(self._table.column(counts, group, choices))


def _per_atom(graph: Graph) -> Ints:
    """``(atoms, 2 layers + 1)``: for each atom its reads and writes by layer, and its vector entries."""
    table = np.zeros((graph.atoms, 2 * len(graph.layers) + 1), dtype=np.int64)
    for index, layer in enumerate(graph.layers):
        np.add.at(table[:, index], layer.reads, 1)
        np.add.at(table[:, len(graph.layers) + index], layer.writes, 1)
    for vector in graph.vectors:
        if vector.trainable:
            np.add.at(table[:, -1], vector.atoms, vector.size)
    return table


def mask_widths(graph: Graph, mask: NDArray[np.bool_]) -> Widths:
    """The widths of the network that keeps exactly the atoms of a mask."""
    rows: Ints = _per_atom(graph)[mask].sum(0)
    layers = len(graph.layers)
    return Widths(rows[:layers], rows[layers:-1], rows[-1])


def dense_widths(graph: Graph) -> Widths:
    """The widths of the dense network."""
    return mask_widths(graph, np.ones(graph.atoms, dtype=bool))
