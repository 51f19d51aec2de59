"""Exploration from elites: an episode changes a few actions of one of the best episodes, or is drawn from a
normal distribution that is fitted to all of them.

Sources: Ecoffet et al., "First return, then explore", Nature 2021 (return first); Rubinstein, 1999 (the
cross-entropy method); Pourchot & Sigaud, "CEM-RL", ICLR 2019 (that method beside a learner).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.episode import Array, Episode

RANK = 0.3  # probability of the best, of the next best if it is not that one, and so on
WIDER = 1.3  # factor on the width after an episode that was known already, until new ones take it back
WIDEST = 4.0
SIGMA = 0.5  # deviation of the widest change, next to uniform
FEW = 4  # good episodes, of which no distribution is fitted
FLOOR = 0.05  # deviation of each action of a drawn episode beyond that of the good ones
TRIES = 20  # draws of a last action that leads to something new


@dataclass(frozen=True)
class Guide:
    """The actions ``(T, 1)`` to follow, a mask ``(T,)`` of those that change, and their standard deviation.

    ``width`` is at least 1; the larger it is, the more the episode is meant to find a new plan.
    """

    actions: Array
    changes: NDArray[np.bool_]
    sigma: float
    width: float

    def candidates(self, count: int) -> int:
        """The number of draws that the critic picks from: fewer, down to 1, as the width grows."""
        return max(1, round(count / self.width))

    def draws(self, decision: int, count: int, rng: np.random.Generator) -> Array:
        """``(n, 1)`` actions to pick from at a decision; one, the elite's, if it does not change.

        They are normal and clipped, not truncated, so that 0 and 1 are drawn as well.
        """
        centre: Array = self.actions[decision : decision + 1]
        if not self.changes[decision]:
            return centre
        noise = self.sigma * rng.standard_normal((self.candidates(count), 1))
        drawn: Array = np.clip(centre + noise, 0, 1).astype(np.float32)
        return drawn


class Revisits:
    """An archive of the best distinct episodes, and the episodes that are made from them.

    A good plan usually differs from a better one in few decisions. So an elite is played again with a few
    changed actions; the others ask for what they asked for before, and so use up what a change sets free.
    Otherwise all actions are drawn from a normal distribution fitted to the elites. Repeating a known plan
    teaches nothing: the last action is drawn again if it is known to lead to one. If a known plan is played
    all the same, the next episodes change more decisions, and by more.

    Args:
        top: size of the archive.
        sigma: standard deviation of a change, in units of the action.
        changed: probability that a decision changes, at width 1; at least one does.
        drawn: probability that all decisions are drawn instead.
    """

    def __init__(self, *, top: int, sigma: float, changed: float, drawn: float) -> None:
        self.top, self.sigma, self.changed, self.drawn = top, sigma, changed, drawn
        self.best: list[tuple[float, Array]] = []  # reward and asked actions, the best first
        self._ends: dict[bytes, dict[float, tuple[float, float]]] = {}  # see `_end`
        self._width = 1.0

    def add(self, episode: Episode) -> None:
        """Add an episode; of equal rewards the earlier one ranks higher."""
        if self._end(episode):
            self._width = min(self._width * WIDER, WIDEST)
            return
        self._width = max(self._width / WIDER**0.5, 1.0)
        self.best.append((episode.reward, episode.asked))
        self.best.sort(key=lambda known: -known[0])
        del self.best[self.top :]

    def _end(self, episode: Episode) -> bool:
        """Whether an episode executed a known plan.

        For each known plan, the range of last actions that led to it is kept: any action within it leads to
        the same plan.
        """
        ends = self._ends.setdefault(episode.executed[:-1].tobytes(), {})
        executed, asked = episode.executed[-1].item(), episode.asked[-1].item()
        known = executed in ends
        least, most = ends.get(executed, (executed, executed))
        ends[executed] = min(least, asked), max(most, asked)
        return known

    def choose(self, rng: np.random.Generator) -> Guide:
        """An elite, better ones more often, and the decisions to change; or a draw from all elites."""
        if len(self.best) >= FEW and rng.random() < self.drawn:
            actions = self._drawn(rng)
            return Guide(actions, np.zeros(len(actions), np.bool_), self.sigma, self._width)
        rank = min(int(rng.geometric(RANK)), len(self.best)) - 1
        actions = self.best[rank][1]
        changes = rng.random(len(actions)) < self.changed * self._width**0.5
        changes[rng.integers(len(actions))] |= not changes.any()
        return Guide(actions, changes, min(self.sigma * self._width, SIGMA), self._width)

    def _drawn(self, rng: np.random.Generator) -> Array:
        """Actions drawn from a normal distribution of the elites, weighted by rank as in CMA-ES."""
        points = np.array([actions[:, 0] for _, actions in self.best], np.float64)
        count, decisions = points.shape
        weights = np.log(count + 0.5) - np.log(np.arange(1, count + 1))
        weights /= weights.sum()
        mean = weights @ points
        along = (np.sqrt(weights) * rng.standard_normal(count)) @ (points - mean)
        point = mean + self._width * (along + FLOOR * rng.standard_normal(decisions))
        drawn: Array = np.clip(point, 0, 1).astype(np.float32)[:, None]
        return drawn

    def renewed(self, executed: Sequence[float], asked: Array, rng: np.random.Generator) -> Array:
        """The last action of an episode, changed until it is not known to lead to a known plan.

        Args:
            executed: actions of the decisions before.
            asked: ``(1,)``; returned if no new plan is found.
            rng: draws others.
        """
        ends = self._ends.get(np.array(executed, np.float32).tobytes(), {}).values()
        action = asked
        for _ in range(TRIES):
            if not any(least <= action[0] <= most for least, most in ends):
                return action
            action = np.clip(asked + self.sigma * rng.standard_normal(1), 0, 1).astype(np.float32)
        return asked

    def state_dict(self) -> dict[str, Any]:
        """The archive, the known plans, and the width."""
        best = [(reward, torch.from_numpy(actions.copy())) for reward, actions in self.best]
        ends = [
            (
                torch.from_numpy(np.frombuffer(before, np.uint8).copy()),
                torch.tensor([(end, *asked) for end, asked in ends.items()], dtype=torch.float64),
            )
            for before, ends in self._ends.items()
        ]
        return {"best": best, "ends": ends, "width": self._width}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self.best = [(reward, actions.numpy().copy()) for reward, actions in state["best"]]
        self._ends = {
            before.numpy().tobytes(): {end: (least, most) for end, least, most in ends.tolist()}
            for before, ends in state["ends"]
        }
        self._width = state["width"]
