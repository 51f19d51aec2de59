"""Channels and bits together: chooses each layer's width and the bits of its weights.

A plan's decisions are the channel groups and, after the groups that a layer reads first, the bits of that
layer: a count of 5 of 9 positions means 5 bits a weight, see `amc_env.compressors.weight_sharing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from amc_env import checks
from amc_env.compressors import Errors
from amc_env.compressors.channels import Channels
from amc_env.compressors.layers import FLOAT, UNITS
from amc_env.compressors.weight_sharing import BITS, WHOLE, stored_bits
from amc_env.cost import Ints, Macs, Prices, WidthTable
from amc_env.graph.structure import Graph, Group
from amc_env.plan import Plan


class Joint:
    """Spends an action on the channels of a group, or on the bits of a layer.

    Args:
        channels: chooses the channels; its graph is the one that is cut.
    """

    errors: Errors | None = None
    losses: Errors | None = None

    def __init__(self, channels: Channels) -> None:
        self.channels, dense = channels, channels.graph
        shared = [index for index, layer in enumerate(dense.layers) if layer.name not in dense.kept_layers]
        asked = [(group.layers[0], 0, at) for at, group in enumerate(dense.groups)]
        decisions = sorted(asked + [(index, 1, index) for index in shared])
        self.graph = _graph(dense, decisions)
        self.choices: Sequence[Ints] = [BITS if kind else channels.choices[at] for _, kind, at in decisions]
        self._widths = [position for position, (_, kind, _) in enumerate(decisions) if not kind]
        self._bits = {index: position for position, (_, kind, index) in enumerate(decisions) if kind}

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The kept positions: the best channels, or the first bits."""
        if group in self._widths:
            return self.channels.choose(self._widths.index(group), count)
        return tuple(range(count))

    def prices(self, resource: str) -> Prices:
        """The prices of plans in a resource, a key of `UNITS`."""
        checks.one_of("resource", resource, tuple(UNITS))
        if resource == "bits":
            return BitPrices(self.channels.graph, self.channels.widths, self._widths, self._bits)
        return ChannelPrices(self.channels.prices(resource), self._widths)

    def parts(self, plan: Plan) -> tuple[Plan, dict[str, int]]:
        """The plan of the channels, and the bits of shared layers by name.

        Raises:
            PlanError: for a plan of another network or compressor.
        """
        plan.check(self.graph)
        dense = self.channels.graph
        kept = {index: plan.kept[position] for index, position in self._bits.items()}
        bits = {
            dense.layers[index].name: len(positions)
            for index, positions in kept.items()
            if positions is not None and len(positions) < WHOLE
        }
        return Plan(dense.hash, tuple(plan.kept[position] for position in self._widths)), bits


class ChannelPrices:
    """A cost that bits do not change.

    Args:
        prices: of the channels.
        columns: indices of their groups among all decisions.
    """

    def __init__(self, prices: Prices, columns: Sequence[int]) -> None:
        self.unit, self.pairwise, self._prices, self._columns = prices.unit, prices.pairwise, prices, columns
        self.pairs = tuple((columns[one], columns[other]) for one, other in prices.pairs)

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` costs of plans ``(..., groups)``."""
        return self._prices(np.asarray(counts)[..., self._columns])

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` costs of the plan ``(groups,)`` with one group's count replaced by each choice."""
        left = np.asarray(counts)[self._columns]
        if group not in self._columns:
            return np.full(len(choices), self._prices(left))
        return self._prices.column(left, self._columns.index(group), choices)


class BitPrices:
    """Bits of codes, codebooks and all numbers that are stored as they are.

    Those of a layer's weights are `amc_env.compressors.weight_sharing.stored_bits`.

    Args:
        graph: by channels.
        table: widths by the counts of its groups.
        columns: indices of its groups among all decisions.
        bits: index of the decision on a layer's bits, by the layer's index.
    """

    pairwise = False

    def __init__(
        self, graph: Graph, table: WidthTable, columns: Sequence[int], bits: Mapping[int, int]
    ) -> None:
        self.unit, self._table, self._columns, self._bits = UNITS["bits"], table, list(columns), dict(bits)
        self._macs, self._fixed = Macs(graph), graph.fixed_params
        self._positions: Ints = np.array([layer.positions for layer in graph.layers])
        touched = [
            {columns[at] for at in np.flatnonzero(table.touched[:, index]).tolist()} | {bits[index]}
            for index in bits
        ]
        self.pairs = tuple(
            sorted({(one, other) for each in touched for one in each for other in each if one < other})
        )

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` costs of plans ``(..., groups)``."""
        every = np.asarray(counts)
        widths = self._table.widths(every[..., self._columns])
        weights = self._macs.by_layer(widths) // self._positions
        bits = np.full_like(weights, WHOLE)
        bits[..., list(self._bits)] = every[..., list(self._bits.values())]
        total: Ints = stored_bits(weights, bits).sum(-1) + FLOAT * (widths.entries + self._fixed)
        return total

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` costs of the plan ``(groups,)`` with one group's count replaced by each choice."""
        plans = np.repeat(np.asarray(counts)[None], len(choices), axis=0)
        plans[:, group] = choices
        return self(plans)


def _graph(dense: Graph, decisions: Sequence[tuple[int, int, int]]) -> Graph:
    """The graph with another group, of atoms that no layer touches, for each layer whose bits are decided."""
    groups, atoms = list[Group](), dense.atoms
    for position, (index, kind, at) in enumerate(decisions):
        if kind:
            groups.append(Group(position, np.arange(atoms, atoms + WHOLE), (index,), WHOLE, 1))
            atoms += WHOLE
        else:
            groups.append(replace(dense.groups[at], index=position))
    fixed = np.concatenate([dense.fixed, np.zeros(atoms - dense.atoms, dtype=bool)])
    return replace(dense, groups=tuple(groups), atoms=atoms, fixed=fixed)
