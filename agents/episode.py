"""One episode: the interfaces of agent and environment, and the loop between them."""

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

ACTIONS = gym.spaces.Box(0, 1, (1,), np.float32)  # of every agent: a keep ratio, or where it lies in a range


class ActionError(ValueError):
    """An agent's action is not in the action space."""


class EpisodeError(ValueError):
    """An environment that breaks the rules of an episode."""


class StateError(ValueError):
    """A saved state that belongs to another agent or to other settings."""


@dataclass(frozen=True)
class Episode:
    """One pass through the network: T decisions and the one reward they earned.

    ``observations`` is ``(T + 1, n)``; ``asked`` and ``executed`` are ``(T, 1)``; all are float32. An asked
    action may exceed the budget; the executed one asks for exactly the keep ratio that was applied.
    ``infos`` are the infos of the T steps.
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
    """The interface of an agent: it chooses an action for each decision and learns after each episode.

    At the first decision of an episode, `act` gets the info of ``reset``, the only one with the key
    ``decisions``; later it gets the info of the step before. A state holds only tensors and plain data, so
    that loading it runs no code.
    """

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action ``(1,)`` float32 in [0, 1] for this decision."""
        ...

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Learn from an episode that this agent explored; returns metrics to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that later episodes depend on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; raises `StateError` if the state does not fit."""
        ...


def run_episode(env: Environment, agent: Agent, *, explore: bool = True, seed: int | None = None) -> Episode:
    """Play one episode; the agent does not learn from it.

    Raises:
        ActionError: the agent's action is NaN, out of the box or of the wrong shape.
        EpisodeError: the environment lacks keys of the info, or ends the episode at another step.
    """
    observation, info = env.reset(seed=seed)
    if "decisions" not in info:
        raise EpisodeError(f"no 'decisions' in the info of reset; {env} must report how many there are")
    decisions, total = info["decisions"], 0.0
    observations, asked, infos = [np.array(observation, np.float32)], list[Array](), list[Info]()
    for decision in range(decisions):
        action = agent.act(observations[-1].copy(), info, explore=explore)
        _check_action(action, env.action_space, decision=decision)
        asked.append(np.array(action))
        observation, reward, terminated, truncated, info = env.step(asked[-1])
        observations.append(np.array(observation, np.float32))
        infos.append(info)
        total += float(reward)
        _check_step(env, info, taken=decision + 1, decisions=decisions, ended=terminated, cut_off=truncated)
    executed = np.array([[info["action_executed"]] for info in infos], np.float32)
    return Episode(np.stack(observations), np.stack(asked), executed, total, tuple(infos))


def check_space(space: Space) -> None:
    """Raise a ``ValueError`` unless actions are keep ratios: `Box(0, 1, (1,))` of float32."""
    if space != ACTIONS:
        raise ValueError(
            f"the action space is {space}: agents ask for keep ratios, as in Box(0, 1, (1,)); leave out "
            "wrappers that rescale actions"
        )


def check_limits(limits: Mapping[str, tuple[float, float]], settings: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for a setting that is not within its limits.

    Args:
        limits: the lowest and the highest value of each setting, by name.
        settings: those that have limits, perhaps among others.
    """
    for name, (lowest, highest) in limits.items():
        if name in settings and not lowest <= settings[name] <= highest:
            raise ValueError(f"{name} is {settings[name]}, it is at least {lowest:g} and at most {highest:g}")


def check_state(state: Mapping[str, Any], **expected: Any) -> None:
    """Raise a `StateError` that lists the differences unless the state has the expected values."""
    for name, value in expected.items():
        if name not in state:
            raise StateError(f"not a state of this agent: no {name!r} in it")
        if isinstance(value, dict):
            check_state(state[name], **value)
        elif state[name] != value:
            raise StateError(
                f"saved with {name} {state[name]!r}, but this agent has {value!r}; search anew with it"
            )


def _check_step(
    env: Environment, info: Info, *, taken: int, decisions: int, ended: bool, cut_off: bool
) -> None:
    if "action_executed" not in info:
        raise EpisodeError(f"no 'action_executed' in the info of step {taken}; an environment must report it")
    if cut_off and not ended:
        raise EpisodeError(f"cut off after decision {taken}; take away the time limit of {env}")
    if ended != (taken == decisions):
        raise EpisodeError(
            f"{env} announced decisions={decisions}, but {'ended' if ended else 'did not end'} after {taken}"
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
