"""Bounds an action: the most that a group may keep so that every limit can still be met.

*Source*: AMC, Algorithm 1, written for keep instead of sparsity and for any `Prices`. The paper's algorithm
assumes that every later layer is cut as hard as allowed, and bounds this layer by what is then still missing.
So does this one, with the exact cost of the network in whole channels and all later groups at their cheapest.
Therefore the bound holds after rounding, and for channel pruning, where a group changes the cost of the
layers before and after it. If the costs of decisions are independent, both algorithms give the same bound.

A measured time may fall when a channel is added. So no count is taken to be affordable because a larger one
is: all counts are priced, and a group's cheapest count need not be its floor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_env.compressors import Compressor
from amc_env.cost import Ints, Prices

TARGET = (1e-6, 1.0)  # the lowest and the highest fraction that a command line may ask for
SLACK = 1e-3  # of a channel: what rounding to float32 may take from a keep ratio


class BudgetError(ValueError):
    """A target that no allowed network meets."""


@dataclass(frozen=True)
class Limit:
    """At most ``most`` of ``dense`` units may be spent, the fraction ``target`` of the dense network."""

    prices: Prices
    target: float
    dense: int
    most: int


class Budget:
    """Bounds the decisions one by one.

    Args:
        compressor: offers each group's counts; the first of them is its floor.
        targets: fraction in (0, 1] of the dense network's cost that may be spent, for each limited resource.
            All must hold; `dense`, `limit` and `spent` refer to the first.

    Attributes:
        choices: the compressor's counts of each group, ascending.
        limits: a `Limit` for each limited resource, in the order of ``targets``.
        unit: of the first resource.
        dense: the dense network's cost.
        limit: the largest cost within the target.
        dense_counts: ``(groups,)`` the counts of the dense network.
        cheapest: ``(groups,)`` the counts of the cheapest network, which later groups are assumed to reach:
            from the floors, one group after the other is set to its cheapest count until none can be lowered.

    Raises:
        BudgetError: when a target is not in (0, 1], or below the cheapest network.
        ValueError: for a resource that the compressor does not know.
    """

    def __init__(self, compressor: Compressor, targets: Mapping[str, float]) -> None:
        self.choices = compressor.choices
        self.dense_counts: Ints = np.array([len(group) for group in compressor.graph.groups])
        self.limits = [
            limit_of(compressor.prices(name), target, self.dense_counts) for name, target in targets.items()
        ]
        main = self.limits[0]
        self.unit, self.dense, self.limit, self._price = (
            main.prices.unit, main.dense, main.most, main.prices,
        )  # fmt: skip
        self.cheapest = self._cheapest()
        self._check_reach()
        self._ratios = np.unique(np.concatenate(self.keeps))
        self._uniform = np.stack(
            [
                snap(own, self._ratios * size)
                for own, size in zip(self.choices, self.dense_counts, strict=True)
            ],
            axis=1,
        )

    def take(self, decided: Sequence[int], keep: float) -> tuple[int, int]:
        """The largest affordable count of the next group that is at most a fraction of it, and the bound.

        If none of those is affordable, the smallest affordable count. The bound is the largest one.
        """
        affordable = self.affordable(decided)
        wanted = np.array(keep * self.dense_counts[len(decided)])
        return int(snap(affordable, wanted)), int(affordable[-1])

    def follow(self, keep: Callable[[int, float], float]) -> tuple[int, ...]:
        """The counts of a policy that asks for ``keep(group, share)`` of each group, see `share`."""
        kept: list[int] = []
        for group in range(len(self.choices)):
            kept.append(self.take(kept, keep(group, self.share(kept)))[0])
        return tuple(kept)

    def affordable(self, decided: Sequence[int]) -> Ints:
        """The counts of the next group, ascending, that meet every limit with the cheapest rest."""
        group = len(decided)
        counts = np.concatenate([np.array(decided, dtype=np.int64), self.cheapest[group:]])
        choices = self.choices[group]
        fits = np.ones(len(choices), dtype=bool)
        for limit in self.limits:
            fits &= limit.prices.column(counts, group, choices) <= limit.most
        return choices[fits]

    def share(self, decided: Sequence[int]) -> float:
        """The largest keep ratio in (0, 1] that all undecided groups can have within every limit.

        Uniform plans only differ at ratios of allowed counts, so only these are tried. If even the smallest
        ratio is too expensive, which non-monotone costs allow, it is returned.
        """
        plans = self._uniform.copy()
        plans[:, : len(decided)] = decided
        affordable = np.flatnonzero(self.within(plans))
        return float(self._ratios[affordable[-1] if len(affordable) else 0])

    @cached_property
    def keeps(self) -> tuple[tuple[float, ...], ...]:
        """Allowed keep ratios of each group, ascending."""
        return tuple(
            tuple((own / size).tolist()) for own, size in zip(self.choices, self.dense_counts, strict=True)
        )

    @cached_property
    def cost_tables(self) -> dict[str, Any]:
        """The costs of all plans, as plain data.

        ``limit`` is the budget. A plan costs ``constant``, plus its entry in ``single[group]`` for each
        group, plus its entry in ``pairs[group, later group]`` for each pair of groups that a layer joins.
        An entry's position is that of the group's count among its choices. ``exact`` is whether that is the
        cost; it is for MACs, parameters and the latency of networks in which no layer touches more than two
        groups. Otherwise it is an estimate from changes of one and two groups around the uniform network.
        ``others`` holds the same for each further limit.
        """
        first, *others = [self._described(limit) for limit in self.limits]
        return first | {"others": tuple(others)}

    def _described(self, limit: Limit) -> dict[str, Any]:
        prices = limit.prices
        center = self.cheapest if prices.pairwise else self._uniform_counts
        base = int(prices(center))
        alone = [prices.column(center, g, choices) - base for g, choices in enumerate(self.choices)]
        tables = {pair: _joint(prices, self.choices, center, *pair, alone, base) for pair in prices.pairs}
        return {
            "limit": limit.most,
            "constant": base,
            "single": tuple(tuple(each.tolist()) for each in alone),
            "pairs": {
                pair: tuple(map(tuple, table.tolist())) for pair, table in tables.items() if table.any()
            },
            "exact": prices.pairwise,
        }

    @cached_property
    def _uniform_counts(self) -> Ints:
        """``(groups,)`` the counts of the uniform network."""
        return np.array(self.follow(lambda group, share: share))

    def spent(self, decided: Sequence[int]) -> float:
        """The cost with all undecided groups whole, as a fraction of the dense network's."""
        return int(self._price([*decided, *self.dense_counts[len(decided) :]])) / self.dense

    def within(self, counts: Ints) -> NDArray[np.bool_]:
        """``(...)`` bool, whether plans ``(..., groups)`` are within every limit."""
        fits: NDArray[np.bool_] = np.all(
            [limit.prices(counts) <= limit.most for limit in self.limits], axis=0
        )
        return fits

    def _cheapest(self) -> Ints:
        """See the class; of several limits it lowers the one that is exceeded most."""
        counts: Ints = np.array([choices[0] for choices in self.choices])
        before = None
        while before is None or (counts != before).any():
            before = counts.copy()
            for group, choices in enumerate(self.choices):
                each = [
                    limit.prices.column(counts, group, choices) / max(limit.most, 1) for limit in self.limits
                ]
                counts[group] = choices[np.max(each, axis=0).argmin()]
        return counts

    def _check_reach(self) -> None:
        for limit in self.limits:
            lowest = int(limit.prices(self.cheapest))
            if limit.dense > limit.most and all(len(own) == 1 for own in self.choices):
                raise BudgetError(
                    f"target {limit.target} of the {limit.prices.unit} cannot be met: the floor allows the "
                    "dense network alone; lower the floor"
                )
            lower = ", or lower the floor" if any(own[0] > 1 for own in self.choices) else ""
            if lowest == limit.dense > limit.most:
                raise BudgetError(
                    f"target {limit.target} of the {limit.prices.unit} cannot be met: no choice of this "
                    "compressor changes them; limit another resource, such as bits, or compress otherwise"
                )
            if lowest > limit.most:
                raise BudgetError(
                    f"target {limit.target} of {limit.dense:,} {limit.prices.unit} is below the smallest "
                    f"network that the floors allow, {lowest:,}; the lowest possible target is "
                    f"{_round_up(lowest, limit.dense)}{lower}"
                )


def limit_of(prices: Prices, target: float, whole: Ints) -> Limit:
    """The limit that a target sets: 0.3 is three tenths, not the float next to it.

    Args:
        prices: of the resource.
        target: fraction in (0, 1].
        whole: ``(groups,)`` the counts of the dense network.

    Raises:
        BudgetError: when the target is not in (0, 1].
    """
    if not isinstance(target, int | float | np.number) or not 0 < target <= 1:
        raise BudgetError(f"target is the fraction of {prices.unit} to keep, in (0, 1], not {target}")
    dense = int(prices(whole))
    return Limit(prices, float(target), dense, math.floor(Fraction(str(float(target))) * dense))


def snap(choices: Ints, wanted: NDArray[np.float64]) -> Ints:
    """The largest of ``choices`` that is at most the wanted value, else the first."""
    below = np.searchsorted(choices, np.floor(wanted + SLACK), side="right") - 1
    found: Ints = choices[np.maximum(below, 0)]
    return found


def _joint(
    prices: Prices,
    choices: Sequence[Ints],
    center: Ints,
    one: int,
    other: int,
    alone: Sequence[Ints],
    base: int,
) -> Ints:
    """The cost of two groups' changes of a network together minus the sum of their single costs."""
    counts, rows = center.copy(), []
    for position, count in enumerate(choices[one]):
        counts[one] = count
        both = prices.column(counts, other, choices[other])
        rows.append(both - base - alone[one][position] - alone[other])
    return np.array(rows)


def _round_up(part: int, whole: int) -> float:
    """``part / whole``, rounded up to four decimals."""
    return -(-(10**4) * part // whole) / 10**4
