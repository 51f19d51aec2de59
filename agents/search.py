"""The loop of every search: an agent explores, the environment evaluates, the agent learns."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from agents.episode import Agent, Environment, Episode, run_episode


class RewardError(ValueError):
    """An episode ended with a reward that is not a number."""


class AgentError(TypeError):
    """An agent that does not keep to `agents.episode.Agent`."""


@dataclass(frozen=True)
class Trial:
    """An episode of a search: its index from 0, the agent's metrics, and its seconds including learning."""

    index: int
    episode: Episode
    metrics: dict[str, float]
    seconds: float


def search(env: Environment, agent: Agent, *, episodes: int, seed: int, start: int = 0) -> Iterator[Trial]:
    """Explore and learn, episode by episode; the agent's state can be saved after each trial.

    Each reset has a seed of its own, drawn from (seed, index), so that an agent restored to the end of
    episode ``start - 1`` continues as if it had never stopped.

    Args:
        env: evaluates.
        agent: proposes.
        episodes: total number, including those before ``start``.
        seed: of the environment's resets; the agent has its own.
        start: index of the first episode to play.

    Raises:
        ActionError: the agent's action is NaN, out of the box or of the wrong shape.
        RewardError: the reward is NaN or infinite; raised before the agent can learn from it.
        AgentError: ``end_episode`` returns no dict.
    """
    if not 0 <= start <= episodes or episodes < 1:
        raise ValueError(f"episodes {start} to {episodes}: give at least 1, and a start within them")
    for index in range(start, episodes):
        began = time.perf_counter()
        episode = run_episode(env, agent, seed=episode_seed(seed, index))
        _check_reward(episode, index)
        metrics = agent.end_episode(episode)
        if not isinstance(metrics, Mapping):
            raise AgentError(
                f"end_episode of {type(agent).__name__} returned {metrics!r}: return a dict of metrics, {{}} "
                "for none"
            )
        yield Trial(index, episode, metrics, seconds=time.perf_counter() - began)


def episode_seed(seed: int, index: int) -> int:
    """The seed of one episode's reset."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def _check_reward(episode: Episode, index: int) -> None:
    if not np.isfinite(episode.reward):
        raise RewardError(
            f"episode {index} ended with reward {episode.reward}; its last info: {dict(episode.final)}; "
            "look for NaN in the weights, the data or the reward function"
        )
