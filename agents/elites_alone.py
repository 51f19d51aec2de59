"""The archive of elites as an agent without networks: what `agents.ddpg_elites` is measured against."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.elites import Guide, Revisits
from agents.episode import Array, Episode, Info, Space, check_space, check_state
from agents.noise import truncated_normal

START = 20  # the last episode, from 0, before the first variation of an elite
MIDDLE, SIGMA = 0.5, 0.5  # of the actions in these


class ElitesAlone:
    """Varies the best episodes so far, as `EliteDDPG` does by default; nothing is learnt from observations.

    Args:
        observation_space: ignored.
        action_space: ``Box(0, 1, (1,))``.
        seed: of all draws.
    """

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        check_space(action_space)
        self.rng = np.random.default_rng(seed)
        self.revisits = Revisits(top=10, sigma=0.3, changed=0.35, drawn=0.5)
        self.episodes = 0
        self._guide: Guide | None = None  # of the current episode, like the two below; None: a random one
        self._decisions = 0
        self._executed: list[float] = []

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """A variation of an elite's action; the best episode's when not exploring."""
        if "decisions" in info:
            self._decisions, self._executed = info["decisions"], []
            self._guide = self.revisits.choose(self.rng) if explore and self.episodes > START else None
        else:
            self._executed.append(info["action_executed"])
        at = len(self._executed)
        if not explore:
            return self.revisits.best[0][1][at] if self.revisits.best else np.array([MIDDLE], np.float32)
        if self._guide is None:
            return truncated_normal(np.array([MIDDLE]), SIGMA, self.rng)
        action: Array = self._guide.draws(at, 1, self.rng)[0]
        if at + 1 < self._decisions:
            return action
        return self.revisits.renewed(self._executed, action, self.rng)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Add the episode to the archive."""
        self.revisits.add(episode)
        self.episodes += 1
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The archive, the generator and the counter."""
        own = {"episodes": self.episodes, "rng": self.rng.bit_generator.state}
        return {"agent": "elites_alone", "revisits": self.revisits.state_dict()} | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for another agent's state."""
        check_state(state, agent="elites_alone")
        self.revisits.load_state_dict(state["revisits"])
        self.episodes, self.rng.bit_generator.state = state["episodes"], state["rng"]
