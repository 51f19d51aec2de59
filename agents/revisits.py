"""Exploration that goes back to what was good: one of the best episodes is played again, in part changed.

Sources: the principle of returning before exploring is that of Ecoffet et al., "First return, then explore",
Nature 2021; a step along the difference of two good ones is that of Storn & Price, "Differential Evolution",
1997.
"""

from collections.abc import Mapping
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
STEP = 0.7  # of the difference of two good episodes


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
    """The best episodes that differ, and which of them is played again.

    A good plan differs from a better one in a few decisions: only some change, the others ask for what they
    asked for then. Where that was more than the budget allowed, they take up what a change leaves free. At
    times all decisions go a step along the difference of two good episodes as well, which trades one decision
    against another as the good ones do. An episode that comes out as one that was played before taught
    nothing, so the next ones change more decisions, and by more.

    Args:
        top: how many episodes are kept.
        sigma: deviation of a change, in units of the action.
        changed: probability of each decision to change, at width 1; at least one does.
        mixed: probability of a step along a difference.
    """

    def __init__(self, *, top: int, sigma: float, changed: float, mixed: float) -> None:
        if not (top > 0 and sigma > 0 and 0 < changed <= 1 and 0 <= mixed <= 1):
            raise ValueError(
                f"revisits: {top=}, {sigma=}, {changed=}, {mixed=}: wanted > 0, > 0, in (0, 1], in [0, 1]"
            )
        self.top, self.sigma, self.changed, self.mixed = top, sigma, changed, mixed
        self.best: list[tuple[float, Array]] = []  # reward and asked actions, the best first
        self._known: set[bytes] = set()  # executed actions of all episodes
        self._width = 1.0

    def add(self, episode: Episode) -> None:
        """Remember an episode; of equals that was played first counts as the better."""
        key = episode.executed.tobytes()
        if key in self._known:
            self._width = min(self._width * WIDER, WIDEST)
            return
        self._known.add(key)
        self._width = max(self._width / WIDER**0.5, 1.0)
        self.best.append((episode.reward, episode.asked))
        self.best.sort(key=lambda known: -known[0])
        del self.best[self.top :]

    def choose(self, rng: np.random.Generator) -> Guide:
        """One of the best, a better one more likely, and what of it changes."""
        rank = min(int(rng.geometric(RANK)), len(self.best)) - 1
        actions = self.best[rank][1]
        if len(self.best) > 2 and rng.random() < self.mixed:
            one, other = (self.best[at][1] for at in rng.choice(len(self.best), 2, replace=False))
            actions = np.clip(actions + STEP * (one - other), 0, 1, dtype=np.float32)
        changes = rng.random(len(actions)) < self.changed * self._width**0.5
        changes[rng.integers(len(actions))] |= not changes.any()
        return Guide(actions, changes, min(self.sigma * self._width, SIGMA), self._width)

    def state_dict(self) -> dict[str, Any]:
        """The best episodes, all that are known, and the width."""
        best = [(reward, torch.from_numpy(actions.copy())) for reward, actions in self.best]
        known = [torch.from_numpy(np.frombuffer(key, np.uint8).copy()) for key in sorted(self._known)]
        return {"best": best, "known": known, "width": self._width}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to what was saved."""
        self.best = [(reward, actions.numpy().copy()) for reward, actions in state["best"]]
        self._known = {key.numpy().tobytes() for key in state["known"]}
        self._width = state["width"]
