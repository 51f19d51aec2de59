"""Rules, agents that do not search: the paper's uniform, shallow and deep, and least error.

They choose keep ratios and play the actions that ask for them, on either scale. The shapes of the first
three are those of the paper's figure 2 (Plain-20 at half of the FLOPs, 18 decisions): uniform keeps 0.70
everywhere; shallow keeps 0.448 in the first 7 decisions and 0.774 in the rest; deep keeps 0.775 in the first
10 and 0.549 in the rest. For other networks and targets the first part keeps a multiple of the uniform keep
ratio, and the rest keeps what uses up the budget.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from agents.damage import damages, least
from agents.episode import Array, Episode, Info, Space, check_space, check_state
from agents.lattice import Lattice, summed

ROUNDING = 1e-6  # of a keep ratio, so that a share is not less than itself


@dataclass
class Rule:
    """A rule: ``factor`` times the uniform keep ratio in the first ``part`` of the decisions, then
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
        check_space(action_space)
        super().__init__()


class Shallow(Rule):
    """Prunes the shallow layers hard."""

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        check_space(action_space)
        super().__init__(factor=0.448 / 0.70, part=7 / 18)


class Deep(Rule):
    """Prunes the deep layers hard."""

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        check_space(action_space)
        super().__init__(factor=0.775 / 0.70, part=10 / 18)


class LeastError:
    """Plays the plan of least damage, see `agents.damage`, which is predicted without an evaluation."""

    scale: ClassVar[str] = "absolute"  # on which every plan can be asked for
    reads_errors: ClassVar[bool] = True

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int) -> None:
        check_space(action_space)
        self._known: dict[str, Any] = {}
        self._plan: list[int] = []
        self._decision = 0

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action that asks for the plan's keep ratio.

        Raises:
            ErrorsError: if the environment tells no errors.
        """
        if "decisions" in info:
            known = {name: info.get(name) for name in ("choices", "costs", "errors", "losses")}
            if known != self._known:
                self._plan, self._known = self._found(info), known
            self._decision = 0
        action = info["actions"][self._plan[self._decision]]
        self._decision += 1
        return np.array([action], np.float32)

    def _found(self, info: Info) -> list[int]:
        lattice, known = Lattice(info["choices"], info["costs"]), damages(info)
        plans = least(lattice, lambda plans: summed(known, plans), np.random.default_rng(0))
        found: list[int] = plans[0].tolist()
        return found

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Nothing to learn."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """It has no state."""
        return {"agent": "least_error"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of this rule."""
        check_state(state, **self.state_dict())


def is_rule(target: str) -> bool:
    """Whether a class, given as in ``_target_`` of a configuration, always plays the same plan."""
    return target.startswith(f"{__name__}.")
