"""The hand-made policies that AMC is compared with: uniform, shallow and deep.

They choose keep ratios and play the actions that ask for them, on either scale. Their shapes are those of the
paper's figure 2 (Plain-20 at half of the FLOPs, 18 decisions): uniform keeps 0.70 everywhere; shallow keeps
0.448 in the first 7 decisions and 0.774 in the rest; deep keeps 0.775 in the first 10 and 0.549 in the rest.
For other networks and targets the first part keeps a multiple of the uniform keep ratio, and the rest keeps
what uses up the budget.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.episode import Array, Episode, Info, Space, check_state

ROUNDING = 1e-6  # of a keep ratio, so that a share is not less than itself


@dataclass
class Rule:
    """A fixed policy: ``factor`` times the uniform keep ratio in the first ``part`` of the decisions, then
    the keep ratio that uses up the budget.

    It neither explores nor learns, so one episode is enough.
    """

    factor: float = 1.0
    part: float = 0.0

    def __post_init__(self) -> None:
        self._first_share, self._decisions, self._decision = 1.0, 0, 0
        self._choices: Sequence[Sequence[float]] = ()

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action that asks for the rule's keep ratio, or for the largest choice below it."""
        if "decisions" in info:
            self._first_share, self._decision, self._choices = info["share"], 0, info["choices"]
            self._decisions = info["decisions"]
        keep = self.ratio(self._decision, info["share"], decisions=self._decisions, first=self._first_share)
        below = bisect_right(self._choices[self._decision], keep + ROUNDING) - 1
        self._decision += 1
        return np.array([info["actions"][max(below, 0)]], np.float32)

    def ratio(self, decision: int, share: float, *, decisions: int, first: float) -> float:
        """The keep ratio that it asks for, given the share at this decision and at the first one."""
        return self.factor * first if decision < round(self.part * decisions) else share

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The rule's parameters; it has no other state."""
        return {"agent": "rule", "factor": self.factor, "part": self.part}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same rule."""
        check_state(state, **self.state_dict())


class Uniform(Rule):
    """The same keep ratio everywhere, but for what rounding to whole channels leaves to later layers."""

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        super().__init__()


class Shallow(Rule):
    """Prunes the shallow layers hard."""

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        super().__init__(factor=0.448 / 0.70, part=7 / 18)


class Deep(Rule):
    """Prunes the deep layers hard."""

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        super().__init__(factor=0.775 / 0.70, part=10 / 18)


def is_rule(target: str) -> bool:
    """Whether a class, given as in ``_target_`` of a configuration, always plays the same plan."""
    return target.startswith(f"{__name__}.")
