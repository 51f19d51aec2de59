"""Exploration that goes back to what was good: one of the best episodes is played again, in part changed, or
one is drawn that is like all of them.

Sources: the principle of returning before exploring is that of Ecoffet et al., "First return, then explore",
Nature 2021; a normal distribution fitted to the best is the cross-entropy method, Rubinstein 1999, and
beside a learner that of Pourchot & Sigaud, "CEM-RL", ICLR 2019.
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
    """The actions ``(T, 1)`` to follow, and ``(T,)`` which of them change, by what deviation.

    ``width``, from 1, says how much of that is for the sake of something new.
    """

    actions: Array
    changes: NDArray[np.bool_]
    sigma: float
    width: float

    def candidates(self, count: int) -> int:
        """Of how many draws the best is played: fewer where something new is wanted, down to 1."""
        return max(1, round(count / self.width))

    def draws(self, decision: int, count: int, rng: np.random.Generator) -> Array:
        """``(n, 1)`` actions to choose from at a decision; the one to follow alone, where it does not change.

        Normal around it, and clipped: the most and the least of a layer are choices like others, and a
        truncated normal hardly ever makes them.
        """
        centre: Array = self.actions[decision : decision + 1]
        if not self.changes[decision]:
            return centre
        noise = self.sigma * rng.standard_normal((self.candidates(count), 1))
        drawn: Array = np.clip(centre + noise, 0, 1).astype(np.float32)
        return drawn


class Revisits:
    """The best episodes that differ, what is played for their sake, and what is known already.

    A good plan differs from a better one in a few decisions: of one of the best only some change, the others
    ask for what they asked for then. Where that was more than the budget allowed, they take up what a change
    leaves free. At other times all decisions are drawn together, from the normal distribution of the best,
    which trades one decision against another as these do. An episode that comes out as one that was played
    before teaches nothing: the last action is drawn again where it is known to lead to one, and where it
    came to that all the same, the next ones change more decisions, and by more.

    Args:
        top: how many episodes are kept.
        sigma: deviation of a change, in units of the action.
        changed: probability of each decision to change, at width 1; at least one does.
        drawn: probability that all decisions are drawn instead.
    """

    def __init__(self, *, top: int, sigma: float, changed: float, drawn: float) -> None:
        if not (top > 0 and sigma > 0 and 0 < changed <= 1 and 0 <= drawn <= 1):
            raise ValueError(
                f"revisits: {top=}, {sigma=}, {changed=}, {drawn=}: wanted > 0, > 0, in (0, 1], in [0, 1]"
            )
        self.top, self.sigma, self.changed, self.drawn = top, sigma, changed, drawn
        self.best: list[tuple[float, Array]] = []  # reward and asked actions, the best first
        self._ends: dict[bytes, dict[float, tuple[float, float]]] = {}  # see `_end`
        self._width = 1.0

    def add(self, episode: Episode) -> None:
        """Remember an episode; of equals that was played first counts as the better."""
        if self._end(episode):
            self._width = min(self._width * WIDER, WIDEST)
            return
        self._width = max(self._width / WIDER**0.5, 1.0)
        self.best.append((episode.reward, episode.asked))
        self.best.sort(key=lambda known: -known[0])
        del self.best[self.top :]

    def _end(self, episode: Episode) -> bool:
        """Whether an episode came out as one before.

        Of each, by its executed actions but the last and by the last, the least and the most is kept that was
        asked for last: what lies between comes to the same.
        """
        ends = self._ends.setdefault(episode.executed[:-1].tobytes(), {})
        executed, asked = episode.executed[-1].item(), episode.asked[-1].item()
        known = executed in ends
        least, most = ends.get(executed, (executed, executed))
        ends[executed] = min(least, asked), max(most, asked)
        return known

    def choose(self, rng: np.random.Generator) -> Guide:
        """One of the best, a better one more likely, and what of it changes; or one that is like them."""
        if len(self.best) >= FEW and rng.random() < self.drawn:
            actions = self._drawn(rng)
            return Guide(actions, np.zeros(len(actions), np.bool_), self.sigma, self._width)
        rank = min(int(rng.geometric(RANK)), len(self.best)) - 1
        actions = self.best[rank][1]
        changes = rng.random(len(actions)) < self.changed * self._width**0.5
        changes[rng.integers(len(actions))] |= not changes.any()
        return Guide(actions, changes, min(self.sigma * self._width, SIGMA), self._width)

    def _drawn(self, rng: np.random.Generator) -> Array:
        """Actions from the normal distribution of the best, better ones of more weight, as in CMA-ES."""
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
        """The last action of an episode, or one near it, such that it is not known how the episode ends.

        Args:
            executed: of the decisions before.
            asked: ``(1,)``; what is given back if no new end is found.
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
        """The best episodes, how all that are known end, and the width."""
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
        """Back to what was saved."""
        self.best = [(reward, actions.numpy().copy()) for reward, actions in state["best"]]
        self._ends = {
            before.numpy().tobytes(): {end: (least, most) for end, least, most in ends.tolist()}
            for before, ends in state["ends"]
        }
        self._width = state["width"]
