"""The bound on an action: how much may be kept here so that the target stays within reach.

*Source*: AMC, Algorithm 1, turned from sparsity to keep and from parameters to any `Resource`. The printed algorithm
assumes that every later layer is cut as hard as allowed and gives what is still missing as a duty to this one. Here the
same question is put to the exact cost of the network, in whole channels, with all later groups at their floor; so the
bound also holds for channel pruning, where a group changes the cost of the layers before and after it, and after rounding.
"""

from collections.abc import Sequence

import numpy as np

from amc_env.cost import Ints, Resource, WidthTable

LEVELS = 401  # of the uniform policy; steps of 0.25 %


class BudgetError(ValueError):
    """A target that no allowed network meets."""


class Budget:
    """Bounds one decision after the other.

    Args:
        table: prices any choice of counts.
        choices: one a group: the counts that it may keep, ascending; the first is its floor.
        resource: what is limited.
        target: fraction in (0, 1] of the dense network's cost that may be spent.

    Raises:
        BudgetError: when the target is not in (0, 1], or below the network with every group at its floor.
    """

    def __init__(
        self, table: WidthTable, choices: Sequence[Ints], resource: Resource, target: float
    ) -> None:
        self.table, self.choices, self.resource = table, choices, resource
        self.dense = int(resource(table.widths([c[-1] for c in choices])))
        self.floors = np.array([c[0] for c in choices])
        lowest = int(resource(table.widths(self.floors)))
        if not 0 < target <= 1:
            raise BudgetError(f"target is the fraction of {resource.unit} to keep, in (0, 1], not {target}")
        self.limit = int(np.floor(target * self.dense))
        if lowest > self.limit:
            possible = np.ceil(1e4 * lowest / self.dense) / 1e4
            raise BudgetError(
                f"target {target} of {self.dense:,} {resource.unit} is below the smallest network that the floors allow "
                f"({lowest:,}); the lowest possible target is {possible:.4f}, or lower the compressor's floor"
            )
        ratios = np.linspace(0, 1, LEVELS)
        self._ratios = ratios
        counts = np.stack([snap(c, ratios) for c in choices], axis=1)
        self._suffixes = table.suffixes(counts)

    def snap(self, group: int, keep: float) -> int:
        """The largest count a group may keep that is no more than a fraction of it; at least its floor."""
        return int(snap(self.choices[group], np.array(keep)))

    def bound(self, decided: Sequence[int]) -> int:
        """The largest count for the next group with which the target can still be met."""
        group = len(decided)
        counts = np.concatenate([np.array(decided, dtype=np.int64), self.floors[group:]])
        prices = self.resource(self.table.column(counts, group, self.choices[group]))
        affordable = np.searchsorted(prices, self.limit, side="right") - 1
        return int(self.choices[group][max(affordable, 0)])

    def share(self, decided: Sequence[int]) -> float:
        """The keep ratio in [0, 1] that, given to every group that is left, just spends what is left."""
        prices = self.resource(self.table.resume(decided, self._suffixes[len(decided)]))
        affordable = np.searchsorted(prices, self.limit, side="right") - 1
        return float(self._ratios[max(affordable, 0)])


def snap(choices: Ints, keep: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Ints:
    """The largest of ``choices`` that is no more than the fraction ``keep`` of their last; at least the first."""
    wanted = np.floor(keep * choices[-1] + 1e-9)
    return choices[np.maximum(np.searchsorted(choices, wanted, side="right") - 1, 0)]
