"""Small environments with a known best policy, and the spaces and info of a compression environment."""

import io
import random
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from agents.episode import Agent, Episode
from agents.search import search

TARGET = np.array([0.2, 0.9, 0.5, 0.7])
BEST_CONSTANT = -float(np.var(TARGET))  # -0.067; actions drawn uniformly average -0.156


class FindTheKeeps(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Four decisions, each with a keep ratio of its own to be found; one reward at the end, at best 0.

    The observation is the decision, one-hot. With ``floor`` the environment executes no less than that.
    """

    def __init__(self, target: NDArray[np.float64] = TARGET, floor: float = 0.0) -> None:
        self.target, self.floor = target, floor
        self.observation_space = gym.spaces.Box(0, 1, (len(target),), np.float32)
        self.action_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.kept: list[float] = []
        return self._observation(), {"share": 0.5, "decisions": len(self.target)}

    def step(self, action):
        self.kept.append(max(self.floor, float(action[0])))
        info = {"share": 0.5, "action_asked": float(action[0]), "action_executed": self.kept[-1]}
        done = len(self.kept) == len(self.target)
        reward = -float(np.mean((np.array(self.kept) - self.target) ** 2)) if done else 0.0
        return self._observation(), reward, done, False, info

    def _observation(self) -> NDArray[np.float32]:
        return np.eye(len(self.target) + 1, len(self.target), dtype=np.float32)[len(self.kept)]


class SpendTheBudget(FindTheKeeps):
    """Keep ratios that share one budget: what one decision takes, the others lack.

    Decision t costs ``cost[t] * keep`` of a budget of half of everything and loses ``loss[t] * (1 -
    keep)^2``, so that the best keeps are ``1 - m cost / loss`` with the multiplier m that spends the budget
    (a quadratic program). The last decision takes what is left. Actions are absolute keep ratios, or
    relative to the share that is left: ``share * exp(beta (2 a - 1))``.
    """

    beta = 1.0
    smallest = 0.1

    def __init__(self, decisions: int = 8, seed: int = 0, *, relative: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.cost = rng.uniform(0.5, 1.5, decisions)
        self.loss = self.cost * rng.uniform(0.7, 1.3, decisions)
        self.relative = relative
        self.budget = 0.5 * self.cost.sum()
        multiplier = (self.cost.sum() - self.budget) / (self.cost**2 / self.loss).sum()
        self.best_keeps = 1 - multiplier * self.cost / self.loss
        super().__init__(self.best_keeps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = super().reset(seed=seed)
        return observation, info | {"share": self._share()}

    def step(self, action):
        t, share, asked = len(self.kept), self._share(), float(action[0])
        later = self.smallest * self.cost[t + 1 :].sum()
        bound = (self.budget - self.cost[:t] @ self.kept - later) / self.cost[t]
        wanted = share * np.exp(self.beta * (2 * asked - 1)) if self.relative else asked
        keep = float(np.clip(min(wanted, bound), self.smallest, 1.0))
        executed = (np.log(keep / share) / self.beta + 1) / 2 if self.relative else keep
        self.kept.append(keep)
        executed = float(np.clip(executed, 0, 1))
        info = {"share": self._share(), "action_asked": asked, "action_executed": executed}
        done = t + 1 == len(self.cost)
        return self._observation(), self.value(self.kept) if done else 0.0, done, False, info

    def value(self, keeps) -> float:
        """The reward of given keeps: minus the weighted loss, 0 where everything is kept."""
        return -float(self.loss @ (1 - np.asarray(keeps)) ** 2 / self.loss.sum())

    def _share(self) -> float:
        left = self.cost[len(self.kept) :].sum()
        return float((self.budget - self.cost[: len(self.kept)] @ self.kept) / left) if left else 0.0


def played(env: gym.Env, agent: Agent, *, episodes: int, start: int = 0) -> NDArray[np.float32]:
    """What an agent asks for in a search, ``(episodes, T)``."""
    trials = search(env, agent, episodes=episodes, seed=0, start=start)
    return np.array([trial.episode.asked[:, 0] for trial in trials])


def best_of(env: gym.Env, agent: Agent, *, episodes: int, seed: int) -> Episode:
    """The episode of largest reward in a search, of equals the first."""
    trials = search(env, agent, episodes=episodes, seed=seed)
    return max((trial.episode for trial in trials), key=lambda episode: episode.reward)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes back from the disk, read without executing anything."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def global_generators() -> tuple[Any, ...]:
    """The whole state of every generator that a program shares."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - to see that nobody draws from it
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def assert_resumes(make, env: gym.Env, *, stop: int, episodes: int) -> None:
    """An agent stopped, saved and restored plays on as one never stopped, and touches no shared generator."""
    before = global_generators()
    whole = played(env, make(seed=3), episodes=episodes)
    first, second = make(seed=3), make(seed=99)
    head = played(env, first, episodes=stop)
    state = first.state_dict()
    played(env, first, episodes=episodes, start=stop)  # a state is a copy: what follows does not reach it
    second.load_state_dict(through_a_file(state))
    np.testing.assert_array_equal(
        np.concatenate([head, played(env, second, episodes=episodes, start=stop)]), whole
    )
    assert global_generators() == before
    assert not np.array_equal(whole, played(env, make(seed=0), episodes=episodes))
    assert not np.array_equal(played(env, make(seed=0), episodes=2), played(env, make(seed=1), episodes=2))
