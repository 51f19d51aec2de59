"""The plans that an environment allows: a choice of keep ratio for each decision, within an exact budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SWAPS = 300  # neighbours of a plan that raise one decision and lower another; of more, drawn ones

Plans = NDArray[np.int64]  # (n, T): of each plan, the position of its keep ratio among those of each decision
Floats = NDArray[np.float64]


def summed(tables: Sequence[NDArray[Any]], plans: Plans) -> NDArray[Any]:
    """``(n,)``: for plans ``(n, T)``, the sum over decisions of a number for each choice.

    With the tables (0, 1) and (2, 5) the plan (1, 0) has the sum 3.
    """
    found: NDArray[Any] = np.sum([table[plans[:, at]] for at, table in enumerate(tables)], axis=0)
    return found


class Limit:
    """The cost of plans in one resource, and its bound.

    Args:
        costs: see `Lattice`.
    """

    def __init__(self, costs: Mapping[str, Any]) -> None:
        self.most, self.constant = int(costs["limit"]), int(costs["constant"])
        self.single = [np.array(each, np.int64) for each in costs["single"]]
        self.pairs = {pair: np.array(table, np.int64) for pair, table in costs["pairs"].items()}

    def cost(self, plans: Plans) -> NDArray[np.int64]:
        """``(n,)`` the costs of plans ``(n, T)``."""
        total: NDArray[np.int64] = self.constant + summed(self.single, plans)
        for (one, other), table in self.pairs.items():
            total += table[plans[:, one], plans[:, other]]
        return total


class Lattice:
    """Plans as indices into the lists of allowed keep ratios, and their costs.

    A network of two decisions with keep ratios (0.5, 1) each has four plans: (0, 0), (0, 1), (1, 0), (1, 1).

    Args:
        choices: allowed keep ratios of each decision, ascending.
        costs: ``costs`` in the info of ``reset``: ``limit`` and ``constant``, whole numbers; ``single``, a
            number for each choice of each decision; ``pairs``, by (decision, later decision), a table of
            numbers. A plan costs the constant plus the entries of its choices. ``others`` may hold the same
            for further limits.
    """

    def __init__(self, choices: tuple[tuple[float, ...], ...], costs: Mapping[str, Any]) -> None:
        self.keeps = [np.array(keeps) for keeps in choices]
        self.tops: NDArray[np.int64] = np.array([len(keeps) - 1 for keeps in choices])
        self.limits = [Limit(each) for each in (costs, *costs.get("others", ()))]

    @property
    def decisions(self) -> int:
        """T."""
        return len(self.keeps)

    def within(self, plans: Plans) -> NDArray[np.bool_]:
        """``(n,)`` whether plans are within the budget."""
        allowed: NDArray[np.bool_] = np.all([each.cost(plans) <= each.most for each in self.limits], axis=0)
        return allowed

    def positions(self, keeps: NDArray[np.floating]) -> Plans:
        """Indices ``(n, T)`` of the largest allowed keep ratios not above the given ones ``(n, T)``."""
        found = [
            np.searchsorted(own, keeps[:, decision] + 1e-6, side="right") - 1
            for decision, own in enumerate(self.keeps)
        ]
        plans: Plans = np.maximum(np.stack(found, axis=1), 0)
        return plans

    def ratios(self, plans: Plans) -> Floats:
        """``(n, T)`` keep ratios."""
        return np.stack([own[plans[:, decision]] for decision, own in enumerate(self.keeps)], axis=1)

    def scaled(self, shape: Floats) -> Plans:
        """Scale keep ratios ``(n, T)`` up to the budget; rows of ones become uniform plans."""
        low, high = np.zeros(len(shape)), np.full(len(shape), 1 / np.maximum(shape.min(initial=1.0), 1e-3))
        for _ in range(24):
            middle = (low + high) / 2
            fits = self.within(self.positions(np.minimum(middle[:, None] * shape, 1)))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return self.positions(np.minimum(low[:, None] * shape, 1))

    def uniform(self) -> Plans:
        """``(1, T)``, the uniform plan: one keep ratio everywhere, as large as the budget allows."""
        return self.scaled(np.ones((1, self.decisions)))

    def filled(self, plans: Plans, rng: np.random.Generator) -> Plans:
        """Raise decisions by one choice, in random order, until the budget allows no more."""
        plans = plans.copy()
        rows = np.arange(len(plans))
        changed = True
        while changed:
            changed = False
            order = rng.permuted(np.tile(np.arange(self.decisions), (len(plans), 1)), axis=1)
            for decision in order.T:
                raised = plans.copy()
                raised[rows, decision] = np.minimum(raised[rows, decision] + 1, self.tops[decision])
                better = self.within(raised) & (raised != plans).any(axis=1)
                plans[better] = raised[better]
                changed |= bool(better.any())
        return plans

    def random(self, count: int, rng: np.random.Generator) -> Plans:
        """``(count, T)`` plans of random proportions that use up the budget."""
        return self.filled(self.scaled(rng.uniform(0.1, 1, (count, self.decisions))), rng)

    def anywhere(self, count: int, rng: np.random.Generator) -> Plans:
        """At most ``count`` plans within the budget, each choice drawn uniformly."""
        drawn: Plans = rng.integers(self.tops + 1, size=(count, self.decisions))
        return drawn[self.within(drawn)]

    def exchanged(self, plans: Plans, rng: np.random.Generator) -> Plans:
        """Mutate each plan: one or two decisions are lowered and others raised.

        A plan stays as it is where that exceeds the budget: fewer channels may take longer.
        """
        given, plans = plans, plans.copy()
        rows = np.arange(len(plans))
        for one_more in (0.0, 0.5):
            decision = rng.integers(self.decisions, size=len(plans))
            step = rng.integers(1, 1 + np.maximum(plans[rows, decision], 1))
            step = np.minimum(step, rng.geometric(0.4, len(plans)))
            step[rng.random(len(plans)) < one_more] = 0  # in half of the cases there is no second decision
            plans[rows, decision] = np.maximum(plans[rows, decision] - step, 0)
        changed = self.filled(plans, rng)
        return np.where(self.within(changed)[:, None], changed, given)

    def neighbours(self, plan: NDArray[np.int64], rng: np.random.Generator) -> Plans:
        """Plans within the budget that move one decision by one choice, or one up and another down."""
        steps = np.eye(self.decisions, dtype=np.int64)
        up, down = np.divmod(np.arange(self.decisions**2), self.decisions)
        swaps = np.flatnonzero(up != down)
        if len(swaps) > SWAPS:
            swaps = rng.choice(swaps, SWAPS, replace=False)
        changed = plan + np.concatenate([steps, -steps, steps[up[swaps]] - steps[down[swaps]]])
        inside = changed[((changed >= 0) & (changed <= self.tops)).all(axis=1)]
        found: Plans = inside[self.within(inside)]
        return found
