"""Searches with an additive model of the reward: one table a decision, one entry a choice."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from agents.episode import check_limits
from agents.lattice import Floats, Lattice, Limit, Plans, summed
from agents.plan_search import PlanSearch, unit

SMOOTH = 1e-2  # weight of the squared second differences of a decision's table
SHRINK = 1e-4  # weight of its squared entries
FEW = 10**5  # plans that are all looked at; of more an integer program finds the best
COARSE = 9  # choices of a decision that the integer program knows; of more, evenly spaced ones
NODES = 100  # of the integer program's search at most; the best plan until then is taken
BATCH = 5  # plans after each solution: it and its best neighbours by the same sum
NOGOODS = 30  # latest known plans that the integer program must avoid
LIMITS = {"levels": (1, 10_000)}  # of the settings: the lowest and the highest


class Additive(PlanSearch):
    """Changes one decision at a time around the best plan, adds up the effects, and plays the best sum.

    Around a centre, each decision is set to a few of its choices in turn, and all others are scaled by one
    factor until the budget is used up. A sum of one term a decision is then fitted to all rewards; plans near
    the centre weigh more. An integer program finds the new plan with the largest sum within the exact budget.
    It and the neighbours with the largest sums are played. The best plan so far is the next centre.

    Args:
        levels: for each decision, levels + 1 of its choices are tried, evenly spaced from end to end.
    """

    def __init__(self, *args: Any, levels: int = 4, **kwargs: Any) -> None:
        check_limits(LIMITS, {"levels": levels})
        self.levels = levels
        self.centre: list[int] = []
        self.changed = False  # the changes around the centre were the last plans
        super().__init__(*args, levels=levels, **kwargs)

    def propose(self, lattice: Lattice) -> Plans:
        """The uniform plan first; then changes around each new best plan, in turn with the best sums."""
        if not len(self.plans):
            return lattice.filled(lattice.uniform(), self.rng)
        best = self.best[0].tolist()
        if not self.changed and best != self.centre:
            design = self.new(changes(lattice, self.best[0], self.levels))
            if len(design):
                self.centre, self.changed = best, True
                return design
        self.changed = False
        tables = fitted(lattice, self.plans, unit(self.rewards), self.best[0])
        found = best_sum(lattice, tables, self.best[0], self.plans)
        if not len(found):
            return self.mutated(lattice)
        full = lattice.filled(found, self.rng)
        around = self.new(lattice.filled(lattice.neighbours(full[0], self.rng), self.rng))
        best_first = np.argsort(-summed(tables, around), kind="stable")
        fresh = self.new(np.concatenate([full, around[best_first], found]))
        return fresh[:BATCH] if len(fresh) else self.mutated(lattice)

    def state_dict(self) -> dict[str, Any]:
        """The parent's state and the centre."""
        return super().state_dict() | {"centre": list(self.centre), "changed": self.changed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for another agent's state."""
        super().load_state_dict(state)
        self.centre, self.changed = list(state["centre"]), state["changed"]


def changes(lattice: Lattice, centre: NDArray[np.int64], levels: int) -> Plans:
    """Plans that set one decision to a choice; the choices are spread evenly over all that it has.

    The keep ratios of the other decisions are scaled by one factor until the budget is used up.
    """
    found = []
    for decision, top in enumerate(lattice.tops):
        for choice in np.unique(np.linspace(0, top, levels + 1).round().astype(int)):
            plan = centre.copy()
            plan[decision] = choice
            plan = _fit_others(lattice, plan, decision)
            if lattice.within(plan[None])[0]:
                found.append(plan)
    return np.array(found).reshape(-1, lattice.decisions)


def _fit_others(lattice: Lattice, plan: NDArray[np.int64], decision: int) -> NDArray[np.int64]:
    keeps = lattice.ratios(plan[None])
    factors = np.linspace(2, 0, 201)[:, None] * np.ones_like(keeps)
    factors[:, decision] = 1
    tried = lattice.positions(np.minimum(factors * keeps, 1))
    first: NDArray[np.int64] = tried[int(lattice.within(tried).argmax())]  # within the budget
    return first


def fitted(lattice: Lattice, plans: Plans, rewards: Floats, centre: NDArray[np.int64]) -> list[Floats]:
    """For each decision, a table of one number a choice; their sums approximate the rewards.

    Args:
        lattice: of the plans.
        plans: ``(n, T)``.
        rewards: ``(n,)``.
        centre: ``(T,)``; a plan's weight is 1 / (1 + decisions in which it differs from this one).
    """
    sizes = lattice.tops + 1
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    design = np.zeros((len(plans), sizes.sum()))
    design[np.arange(len(plans))[:, None], starts + plans] = 1
    weights = 1 / (1 + (plans != centre).sum(axis=1))
    penalty = SHRINK * np.eye(sizes.sum())
    for start, size in zip(starts, sizes, strict=True):
        second = np.diff(np.eye(size), n=2, axis=0)
        penalty[start : start + size, start : start + size] += SMOOTH * second.T @ second
    middle = np.average(rewards, weights=weights)
    weighted = design.T * weights
    solved = np.linalg.solve(weighted @ design + penalty, weighted @ (rewards - middle))
    return [solved[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def best_sum(lattice: Lattice, tables: list[Floats], near: NDArray[np.int64], avoid: Plans) -> Plans:
    """The plan ``(1, T)`` with the largest sum of table entries within the budget; empty if none is found.

    Few plans are all compared. For many, an integer program has a binary variable for each choice of each
    decision, and one for each pair of choices that has a cost of its own.

    Args:
        lattice: of the plans.
        tables: for each decision, a number for each choice.
        near: ``(T,)``, a plan whose choices are considered as well.
        avoid: ``(n, T)`` plans that may not be the answer; of the program, the latest of them.
    """
    if np.prod(lattice.tops + 1.0) <= FEW:
        return _best_of_all(lattice, tables, avoid)
    options = [_options(int(top), int(at)) for top, at in zip(lattice.tops, near, strict=True)]
    program = _Program(lattice, options)
    worth = np.concatenate([table[own] for table, own in zip(tables, options, strict=True)])
    latest = list(dict.fromkeys(map(tuple, avoid[::-1].tolist())))[:NOGOODS]
    found = program.solve(worth, np.array(latest, np.int64).reshape(-1, lattice.decisions))
    return np.zeros((0, lattice.decisions), np.int64) if found is None else found[None]


def _best_of_all(lattice: Lattice, tables: list[Floats], avoid: Plans) -> Plans:
    plans = np.stack([axis.ravel() for axis in np.indices((lattice.tops + 1).tolist())], axis=1)
    worth = summed(tables, plans)
    worth[~lattice.within(plans)] = -np.inf
    worth[np.ravel_multi_index(tuple(avoid.T), (lattice.tops + 1).tolist())] = -np.inf
    best: Plans = plans[[int(worth.argmax())]]
    return best if np.isfinite(worth.max()) else best[:0]


def _options(top: int, at: int) -> NDArray[np.int64]:
    spread = np.linspace(0, top, min(COARSE, top + 1)).round().astype(np.int64)
    return np.union1d(spread, [at])


class _Program:
    """The integer program of `best_sum`: its variables are the choices, then the pairs of choices."""

    def __init__(self, lattice: Lattice, options: list[NDArray[np.int64]]) -> None:
        self.options = options
        sizes = [len(own) for own in options]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.cells: list[tuple[float, float, list[int], list[float]]] = []  # low, high, columns, coefficients
        for start, size in zip(self.starts, sizes, strict=False):
            self.cells.append((1, 1, list(range(start, start + size)), [1.0] * size))
        self.width = int(self.starts[-1])
        pairs = sorted(set().union(*(limit.pairs for limit in lattice.limits)))
        first = {pair: self._add_pair(*pair) for pair in pairs}
        for limit in lattice.limits:
            self._add_limit(limit, first)
        self.lattice = lattice

    def _add_pair(self, one: int, other: int) -> int:
        """Add a variable for each pair of two decisions' choices, by rows; returns the first one's index."""
        rows, columns = len(self.options[one]), len(self.options[other])
        index = self.width + np.arange(rows * columns).reshape(rows, columns)
        for i in range(rows):  # the pairs of a choice add up to it
            self.cells.append((0, 0, [self.starts[one] + i, *index[i]], [-1.0] + [1.0] * columns))
        for j in range(columns):
            self.cells.append((0, 0, [self.starts[other] + j, *index[:, j]], [-1.0] + [1.0] * rows))
        self.width += index.size
        return int(index[0, 0])

    def _add_limit(self, limit: Limit, first: Mapping[tuple[int, int], int]) -> None:
        costs = np.zeros(self.width)
        costs[: self.starts[-1]] = np.concatenate(
            [single[own] for single, own in zip(limit.single, self.options, strict=True)]
        )
        for (one, other), table in limit.pairs.items():
            block, at = table[np.ix_(self.options[one], self.options[other])], first[one, other]
            costs[at : at + block.size] = block.ravel()
        room = float(limit.most - limit.constant)
        used, scale = (
            np.flatnonzero(costs),
            max(room, 1.0),
        )  # in units of the budget, for the solver's tolerances
        self.cells.append((-np.inf, room / scale, used.tolist(), (costs[used] / scale).tolist()))

    def solve(self, worth: Floats, avoid: Plans) -> NDArray[np.int64] | None:
        """The plan ``(T,)`` with the largest worth; None if none is found."""
        cells = self.cells + self._nogoods(avoid)
        rows = np.repeat(np.arange(len(cells)), [len(cell[2]) for cell in cells])
        columns = np.concatenate([cell[2] for cell in cells]).astype(np.int64)
        entries = np.concatenate([cell[3] for cell in cells])
        matrix = csr_array((entries, (rows, columns)), shape=(len(cells), self.width))
        low, high = ([cell[i] for cell in cells] for i in (0, 1))
        binary = int(self.starts[-1])
        objective = np.zeros(self.width)
        objective[:binary] = -worth / (np.abs(worth).max() or 1.0)
        integral = np.zeros(self.width)
        integral[:binary] = 1
        answer = milp(
            objective,
            integrality=integral,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, low, high),
            options={"node_limit": NODES, "mip_rel_gap": 1e-3},
        )
        if answer.x is None:
            return None
        taken = [answer.x[a:b].argmax() for a, b in zip(self.starts, self.starts[1:], strict=False)]
        plan = np.array([own[i] for own, i in zip(self.options, taken, strict=True)])
        return plan if self.lattice.within(plan[None])[0] else None

    def _nogoods(self, avoid: Plans) -> list[tuple[float, float, list[int], list[float]]]:
        cells = []
        for plan in avoid:
            at = [np.flatnonzero(own == choice) for own, choice in zip(self.options, plan, strict=True)]
            if all(len(one) for one in at):
                columns = [int(start + one[0]) for start, one in zip(self.starts, at, strict=False)]
                cells.append((-np.inf, len(plan) - 1.0, columns, [1.0] * len(plan)))
        return cells
