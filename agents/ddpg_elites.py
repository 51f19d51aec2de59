"""DDPG with an archive of elites: most episodes vary the best ones so far."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.ddpg import DDPG
from agents.elites import Guide, Revisits
from agents.episode import Array, Episode, Info, check_limits
from agents.networks import q_values
from agents.noise import truncated_normal

LIMITS = {  # of its own arguments: the lowest and the highest
    "draws": (1, 10_000),
    "revisit": (0.0, 1.0),
    "revisit_top": (1, 100_000),
    "revisit_sigma": (1e-6, 10.0),
    "revisit_changed": (1e-6, 1.0),
    "revisit_drawn": (0.0, 1.0),
}


class EliteDDPG(DDPG):
    """`DDPG` in which most episodes vary the best ones so far, and the critic picks among several draws.

    Args:
        *args: those of `DDPG`.
        draws: of each action, of which the critic picks the one that is played; 1: it picks none.
        revisit: fraction of the episodes after ``learn_after`` that start from the elites instead of mu.
        revisit_top: the argument ``top`` of `Revisits`.
        revisit_sigma: its ``sigma``.
        revisit_changed: its ``changed``.
        revisit_drawn: its ``drawn``.
        warmup: a field of `agents.ddpg.Settings`, shorter than there because a search has some 400 episodes.
        learn_after: likewise.
        sigma_decay: likewise.
        **settings: the other fields.
    """

    def __init__(
        self,
        *args: Any,
        draws: int = 4,
        revisit: float = 0.9,
        revisit_top: int = 10,
        revisit_sigma: float = 0.3,
        revisit_changed: float = 0.35,
        revisit_drawn: float = 0.5,
        warmup: int = 50,
        learn_after: int = 20,
        sigma_decay: float = 0.985,
        **settings: Any,
    ) -> None:
        own = {"draws": draws, "revisit": revisit, "revisit_top": revisit_top, "revisit_sigma": revisit_sigma}
        own |= {"revisit_changed": revisit_changed, "revisit_drawn": revisit_drawn}
        check_limits(LIMITS, own)
        super().__init__(*args, warmup=warmup, learn_after=learn_after, sigma_decay=sigma_decay, **settings)
        self.draws, self.revisit = draws, revisit
        self.revisits = Revisits(
            top=revisit_top, sigma=revisit_sigma, changed=revisit_changed, drawn=revisit_drawn
        )
        self._guide: Guide | None = None  # of the current episode, like the two below; None follows mu
        self._decisions = 0
        self._executed: list[float] = []

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The policy's action mu; when exploring, with noise, or a variation of an elite's action."""
        if "decisions" in info:
            self._begin(info["decisions"], explore=explore)
        else:
            self._executed.append(info["action_executed"])
        if not explore:
            return self._mu(observation)
        count = self.draws if self.episodes > self.settings.learn_after else 1
        if self._guide is None:
            mu = np.repeat(self._mu(observation)[None], count, 0)
            return self._best(observation, truncated_normal(mu, self.schedule(self.episodes), self.rng))
        decision = len(self._executed)
        action = self._best(observation, self._guide.draws(decision, count, self.rng))
        if decision + 1 < self._decisions:
            return action
        return self.revisits.renewed(self._executed, action, self.rng)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Add the episode to the archive, and learn."""
        self.revisits.add(episode)
        return super().end_episode(episode)

    def _begin(self, decisions: int, *, explore: bool) -> None:
        """Choose whether the episode follows an elite or mu."""
        self.settings.updates(decisions)  # none is an error, before the first evaluation
        self._guide, self._decisions, self._executed = None, decisions, []
        may = explore and self.episodes > self.settings.learn_after and self.revisit > 0
        if may and self.rng.random() < self.revisit:
            self._guide = self.revisits.choose(self.rng)

    def _best(self, observation: Array, draws: Array) -> Array:
        """The draw that the critic values most, out of ``(n, 1)``."""
        if len(draws) == 1:
            return np.array(draws[0])
        with torch.inference_mode():
            states = torch.from_numpy(observation).expand(len(draws), -1)
            values = q_values(self.critic, states, torch.from_numpy(draws))
        chosen: NDArray[np.float32] = draws[int(values.argmax())]
        return chosen

    def _identity(self) -> dict[str, Any]:
        r = self.revisits
        own = {"draws": self.draws, "revisit": self.revisit, "top": r.top, "sigma": r.sigma}
        own |= {"changed": r.changed, "drawn": r.drawn}
        return super()._identity() | {"agent": "ddpg_elites", "elites": own}

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"revisits": self.revisits}
