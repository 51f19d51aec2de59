"""One episode: what an agent is, what an environment must keep to, and how the two meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Info = Mapping[str, Any]
Environment = gym.Env[Array, Array]
Space = gym.spaces.Space[Any]


class ActionError(ValueError):
    """An agent asked for something that is not in the action space."""


class EpisodeError(ValueError):
    """An environment that does not keep to the form of an episode."""


@dataclass(frozen=True)
class Episode:
    """One pass through the network: T decisions and the one reward they earned.

    ``observations`` is ``(T + 1, n)``, ``asked`` and ``executed`` are ``(T, 1)``, all float32. What was
    asked may be more than the budget allowed; ``executed`` would have asked for exactly what was applied.
    ``infos`` are those of the T steps.
    """

    observations: Array
    asked: Array
    executed: Array
    reward: float
    infos: tuple[Info, ...]

    def __post_init__(self) -> None:
        assert len(self.observations) - 1 == len(self.asked) == len(self.executed) == len(self.infos)

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def final(self) -> Info:
        """The info of the last step, which holds the evaluation."""
        return self.infos[-1]


class Agent(Protocol):
    """Whatever can search: it proposes an action a decision and learns once an episode.

    The info of `act` is that of ``reset`` at an episode's first decision, the only one that holds
    ``decisions``, and that of the step before at all others; ``pending`` is added to each, the number of
    earlier episodes that `end_episode` is still to be told of. A state holds tensors and plain data alone, so
    that it loads without running code; it is taken when no episode is pending.
    """

    @property
    def ahead(self) -> int:
        """How many episodes, from 1, can be played from here on before the first of them is learnt from.

        Each is to be what it would be after learning from those before it. An agent without this property
        plays one at a time.
        """
        ...

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action ``(1,)`` float32 in [0, 1] for this decision."""
        ...

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Learn from an episode that this agent explored; returns what is worth logging."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next episode depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken; raises `StateError` where it cannot."""
        ...


def run_episode(env: Environment, agent: Agent, *, explore: bool = True, seed: int | None = None) -> Episode:
    """Play one episode; the agent does not learn from it."""
    play = Play(env, seed=seed)
    play.decide(agent, explore=explore)
    return play.finish()


class Play:
    """An episode in the making; its last step, the one that evaluates, is left for `finish`.

    Raises:
        EpisodeError: when ``reset`` does not say how many decisions there are.
    """

    def __init__(self, env: Environment, *, seed: int | None, options: dict[str, Any] | None = None) -> None:
        observation, self._info = env.reset(seed=seed, options=options)
        if "decisions" not in self._info:
            raise EpisodeError(f"no 'decisions' in the info of reset; {env} must report how many there are")
        self._env, self._decisions = env, self._info["decisions"]
        self._observations, self._asked = [np.array(observation)], list[Array]()
        self._reward, self._infos = 0.0, list[dict[str, Any]]()

    def decide(self, agent: Agent, *, explore: bool, pending: int = 0) -> None:
        """Ask for all actions and take all steps but the last."""
        for decision in range(self._decisions):
            if decision:
                self._step()
            seen = self._observations[-1].copy(), {**self._info, "pending": pending}
            action = agent.act(*seen, explore=explore)
            _check_action(action, self._env.action_space, decision=decision)
            self._asked.append(np.array(action))

    def finish(self) -> Episode:
        """Take the last step; the whole episode."""
        self._step()
        observations, asked = np.stack(self._observations), np.stack(self._asked)
        executed = np.array([[info["action_executed"]] for info in self._infos], np.float32)
        return Episode(observations, asked, executed, self._reward, tuple(self._infos))

    def _step(self) -> None:
        observation, reward, terminated, truncated, self._info = self._env.step(self._asked[-1])
        self._observations.append(np.array(observation))
        self._infos.append(self._info)
        self._reward += float(reward)
        taken = len(self._infos)
        if "action_executed" not in self._info:
            raise EpisodeError(
                f"no 'action_executed' in the info of step {taken}; an environment must report it"
            )
        if truncated:
            raise EpisodeError(f"cut off after {taken} decisions; take away the time limit of {self._env}")
        if terminated != (taken == self._decisions):
            raise EpisodeError(
                f"{self._env} announced {self._decisions} decisions, but "
                f"{'ended' if terminated else 'did not end'} after {taken}"
            )


def _check_action(action: Array, space: Space, *, decision: int) -> None:
    assert isinstance(space, gym.spaces.Box)
    where = f"at decision {decision} the agent answered"
    if not isinstance(action, np.ndarray) or action.shape != space.shape:
        raise ActionError(f"{where} {action!r}; an array of shape {space.shape} is asked for")
    if np.isnan(action).any():
        raise ActionError(f"{where} NaN; if it learns, it has most likely diverged: lower its learning rates")
    if not space.contains(action.astype(space.dtype)):
        raise ActionError(f"{where} {action}, outside [{space.low.min()}, {space.high.max()}]")
