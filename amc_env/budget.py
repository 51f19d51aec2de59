"""The bound on an action: how much a group may keep so that the target can still be met.

*Source*: AMC, Algorithm 1, written for keep instead of sparsity and for any `Resource`. The paper's algorithm
assumes that every later layer is cut as hard as allowed, and bounds this layer by what is then still missing.
So does this one, with the exact cost of the network in whole channels and all later groups at their floor.
Therefore the bound holds after rounding, and for channel pruning, where a group changes the cost of the
layers before and after it. If the costs of decisions are independent, both algorithms give the same bound.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_env.compressors import Compressor
from amc_env.cost import Ints, Resource, Widths, WidthTable

SLACK = 1e-3  # of a channel: what rounding to float32 may take from a keep ratio


class BudgetError(ValueError):
    """A target that no allowed network meets."""


class Budget:
    """Bounds one decision after the other.

    Args:
        compressor: offers each group's counts; the first of them is its floor.
        resource: what is limited.
        target: fraction in (0, 1] of the dense network's cost that may be spent.

    Raises:
        BudgetError: when the target is not in (0, 1], or below the network with every group at its floor.
    """

    def __init__(self, compressor: Compressor, resource: Resource, target: float) -> None:
        if not 0 < target <= 1:
            raise BudgetError(f"target is the fraction of {resource.unit} to keep, in (0, 1], not {target}")
        self.choices, self.resource = compressor.choices, resource
        self.table = WidthTable(compressor.graph, compressor.orders)
        self.whole = np.array([choices[-1] for choices in self.choices])
        self.floors = np.array([choices[0] for choices in self.choices])
        self.dense = self._price(self.whole)
        self.limit = math.floor(Fraction(str(float(target))) * self.dense)  # 0.3 is three tenths, not a float
        lowest = self._price(self.floors)
        if lowest > self.limit:
            raise BudgetError(
                f"target {target} of {self.dense:,} {resource.unit} is below the smallest network that the "
                f"floors allow, {lowest:,}; the lowest possible target is {_round_up(lowest, self.dense)}, "
                "or lower the floor"
            )
        self._ratios = np.unique(np.concatenate([choices / choices[-1] for choices in self.choices]))
        self._uniform = np.stack([snap(choices, self._ratios) for choices in self.choices], axis=1)

    def snap(self, group: int, keep: float) -> int:
        """The largest allowed count that is at most a fraction of the group; at least its floor."""
        return int(snap(self.choices[group], np.array(keep)))

    def bound(self, decided: Sequence[int]) -> int:
        """The largest count for the next group with which the target can still be met."""
        group = len(decided)
        counts = np.concatenate([np.array(decided, dtype=np.int64), self.floors[group:]])
        prices = self.resource(self.table.column(counts, group, self.choices[group]))
        affordable = int(np.searchsorted(prices, self.limit, side="right"))
        return int(self.choices[group][affordable - 1])

    def share(self, decided: Sequence[int]) -> float:
        """The largest keep ratio in (0, 1] that all undecided groups can be given within the target.

        A uniform policy only changes at ratios of allowed counts, so only these are tried.
        """
        left = self._uniform[:, len(decided) :]
        affordable = bisect_right(left, self.limit, key=lambda counts: self._price([*decided, *counts]))
        return float(self._ratios[affordable - 1])

    @cached_property
    def keeps(self) -> tuple[tuple[float, ...], ...]:
        """Allowed keep ratios of each group, ascending."""
        return tuple(tuple((choices / choices[-1]).tolist()) for choices in self.choices)

    @cached_property
    def costs(self) -> dict[str, Any]:
        """What every plan costs, as plain data.

        ``limit`` is the budget. A plan costs ``constant``, plus its entry in ``single[group]`` for each
        group, plus its entry in ``pairs[group, later group]`` for each pair of groups that a layer joins.
        An entry's position is that of the group's count among its choices. This is exact for MACs and
        parameters: a layer costs a product of two widths, and a width is a sum over groups.
        """
        base, groups = self._price(self.floors), range(len(self.choices))
        alone = [self.resource(self.table.column(self.floors, g, self.choices[g])) - base for g in groups]
        pairs = {}
        for one in groups:
            raised = self.floors.copy()
            raised[one] = self.whole[one]
            for other in range(one + 1, len(self.choices)):
                both = self.resource(self.table.column(raised, other, self.whole[[other]]))
                if int(both[0]) - base != int(alone[one][-1] + alone[other][-1]):
                    pairs[one, other] = self._joint(one, other, alone, base)
        single = tuple(tuple(each.tolist()) for each in alone)
        return {"limit": self.limit, "constant": base, "single": single, "pairs": pairs}

    def _joint(self, one: int, other: int, alone: Sequence[Ints], base: int) -> tuple[tuple[int, ...], ...]:
        """What two groups cost together, beyond the sum of what each costs alone."""
        counts, rows = self.floors.copy(), []
        for position, count in enumerate(self.choices[one]):
            counts[one] = count
            both = self.resource(self.table.column(counts, other, self.choices[other]))
            rows.append(tuple((both - base - alone[one][position] - alone[other]).tolist()))
        return tuple(rows)

    def widths(self, decided: Sequence[int]) -> Widths:
        """The widths of the network in which all undecided groups are whole."""
        return self.table.widths([*decided, *self.whole[len(decided) :]])

    def spent(self, decided: Sequence[int]) -> float:
        """The cost of the network of `widths`, as a fraction of the dense network's."""
        return int(self.resource(self.widths(decided))) / self.dense

    def allows(self, counts: Sequence[int]) -> bool:
        """Whether a network with so many channels in each group is within the target."""
        return self._price(counts) <= self.limit

    def _price(self, counts: Sequence[int] | Ints) -> int:
        return int(self.resource(self.table.widths(counts)))


def snap(choices: Ints, keep: NDArray[np.float64]) -> Ints:
    """The largest of ``choices`` that is at most a fraction of the last one; at least the first."""
    wanted = np.floor(keep * choices[-1] + SLACK)
    found: Ints = choices[np.maximum(np.searchsorted(choices, wanted, side="right") - 1, 0)]
    return found


def _round_up(part: int, whole: int) -> float:
    """``part / whole``, rounded up to four decimals."""
    return -(-(10**4) * part // whole) / 10**4
