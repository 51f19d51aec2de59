"""One environment for many budgets: each episode has its own target, which the agent observes."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from amc_env.env import CompressionEnv
from amc_env.observation import Observation

Action = NDArray[np.float32]


class Goals(gym.Wrapper[Observation, Action, Observation, Action], gym.utils.RecordConstructorArgs):
    """A `CompressionEnv` that draws the target of each episode from a grid.

    Observations have one more feature, the last: the target. ``info`` holds it under ``target`` after `reset`
    and after the last step. Otherwise an episode is the same as in an environment with this target.

    *Source*: Schaul et al., "Universal Value Function Approximators", ICML 2015, for a goal as an input of
    the policy.

    Args:
        env: a `CompressionEnv` or a wrapper of one; each reset changes its target.
        targets: different fractions of the dense cost that may be spent, each in (0, 1].

    Raises:
        ValueError: for no targets, a target that is given twice, or another environment.
        BudgetError: for a target that no allowed network meets.
    """

    def __init__(self, env: gym.Env[Observation, Action], targets: Sequence[float]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, targets=targets)
        super().__init__(env)
        if not isinstance(env.unwrapped, CompressionEnv):
            raise ValueError(f"goals are for a CompressionEnv, not for {env}")
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(f"targets {list(targets)}: give at least one, and each once")
        self.task, self.targets = env.unwrapped, tuple(float(target) for target in targets)
        for target in self.targets:
            self.task.set_target(target)
        shape = env.observation_space.shape
        assert shape is not None
        self.observation_space = gym.spaces.Box(0, 1, (shape[0] + 1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Back to the dense network, with a target drawn uniformly from the grid.

        Args:
            seed: of ``np_random``, from which the target is drawn.
            options: ``target``, used instead of a drawn one; it need not be on the grid.

        Raises:
            BudgetError: for a target that no allowed network meets.
        """
        options = dict(options or {})
        if seed is not None:
            self.env.reset(seed=seed)
        drawn = self.targets[self.np_random.integers(len(self.targets))]
        target = options.pop("target", None)
        self.task.set_target(drawn if target is None else float(target))
        observation, info = self.env.reset(options=options)
        return self._with_target(observation), info | {"target": self.task.target}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            info = info | {"target": self.task.target}
        return self._with_target(observation), float(reward), terminated, truncated, info

    def _with_target(self, observation: Observation) -> Observation:
        return np.append(observation, np.float32(self.task.target))
