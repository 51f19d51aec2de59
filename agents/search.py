"""The only place where an agent meets an environment."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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


class RewardError(ValueError):
    """An episode ended with a reward that is not a number."""


class EpisodeError(ValueError):
    """An environment that does not keep to the form of an episode."""


class StateError(ValueError):
    """A saved state that belongs to another agent or to other settings."""


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
    ``decisions``, and that of the step before at all others. A state holds tensors and plain data alone, so
    that it loads without running code.
    """

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


@dataclass(frozen=True)
class Trial:
    """An episode of a search, its index from 0, and what the agent had to say of it."""

    index: int
    episode: Episode
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Best:
    """The best trial so far by reward; of equals, the first."""

    trial: Trial | None = None

    def offer(self, trial: Trial) -> bool:
        """Keep a trial if it is better than all before; says whether it was."""
        better = self.trial is None or trial.episode.reward > self.trial.episode.reward
        if better:
            self.trial = trial
        return better


def run_episode(env: Environment, agent: Agent, *, explore: bool = True, seed: int | None = None) -> Episode:
    """Play one episode; the agent does not learn from it."""
    observation, info = env.reset(seed=seed)
    observations, asked = [np.array(observation)], list[Array]()
    rewards, infos = list[float](), list[dict[str, Any]]()
    terminated = False
    while not terminated:
        action = agent.act(observation, info, explore=explore)
        _check_action(action, env.action_space, decision=len(asked))
        observation, reward, terminated, truncated, info = env.step(action)
        if truncated:
            raise EpisodeError(f"cut off after {len(asked) + 1} decisions; take away the time limit of {env}")
        observations.append(np.array(observation))
        asked.append(np.array(action))
        rewards.append(float(reward))
        infos.append(info)
    return Episode(np.stack(observations), np.stack(asked), _executed(infos), sum(rewards), tuple(infos))


def search(env: Environment, agent: Agent, *, episodes: int, seed: int, start: int = 0) -> Iterator[Trial]:
    """Explore, learn, and yield each trial: the loop of every search.

    Each episode's reset has a seed of its own, drawn from (seed, index): an agent restored to the end of
    episode ``start - 1`` continues as if it had never stopped. Whoever drives the loop holds the best,
    whatever interrupts it.

    Raises:
        ActionError: the agent's action is NaN, out of the box or of the wrong shape.
        RewardError: the reward is NaN or infinite; raised before the agent can learn from it.
    """
    if not 0 <= start <= episodes or episodes < 1:
        raise ValueError(f"episodes {start} to {episodes}: give at least 1, and a start within them")
    for index in range(start, episodes):
        episode = run_episode(env, agent, seed=episode_seed(seed, index))
        if not np.isfinite(episode.reward):
            raise RewardError(
                f"episode {index} ended with reward {episode.reward}; its last info: {dict(episode.final)}; "
                "look for NaN in the weights, the data or the reward function"
            )
        yield Trial(index, episode, agent.end_episode(episode))


def run_search(
    env: Environment,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    start: int = 0,
    best: Best | None = None,
    on_episode: Callable[[Trial], None] = lambda trial: None,
) -> Episode:
    """Search to the end; the best episode by reward.

    Args:
        env: what is asked.
        agent: who answers.
        episodes: how many in all, those before ``start`` included.
        seed: of the environment's resets; the agent has its own.
        start: the first episode to play, where the agent was restored to that point.
        best: the best of the episodes before ``start``; it is kept up to date, so that the caller has it
            after an interrupt.
        on_episode: called after each episode, with the best already updated.
    """
    best = Best() if best is None else best
    for trial in search(env, agent, episodes=episodes, seed=seed, start=start):
        best.offer(trial)
        on_episode(trial)
    if best.trial is None:
        raise ValueError(
            f"nothing left to search after {start} of {episodes} episodes, and no best was given"
        )
    return best.trial.episode


def episode_seed(seed: int, index: int) -> int:
    """The seed of one episode's reset."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def check_state(state: Mapping[str, Any], **expected: Any) -> None:
    """Raise `StateError`, and say what differs, unless the state was saved under what is expected."""
    for name, value in expected.items():
        if name not in state:
            raise StateError(f"not a state of this agent: no {name!r} in it")
        if isinstance(value, dict):
            check_state(state[name], **value)
        elif state[name] != value:
            raise StateError(
                f"saved with {name} {state[name]!r}, but this agent has {value!r}; search anew with it"
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


def _executed(infos: list[dict[str, Any]]) -> Array:
    missing = [t for t, info in enumerate(infos) if "action_executed" not in info]
    if missing:
        raise EpisodeError(
            f"no 'action_executed' in the info of steps {missing}; an environment must report it"
        )
    return np.array([[info["action_executed"]] for info in infos], np.float32)
