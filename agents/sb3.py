"""DDPG and TD3 of Stable-Baselines3 as agents; the only module that imports it.

Networks, losses and updates are the library's. As in AMC are the truncated normal noise, a warm-up in
episodes, the episode's reward on every transition, and one update after an episode for each of its decisions.
``learn()`` is never called: `agents.search` drives the environment.
"""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agents.actor_critic import ActorCritic
from agents.episode import Array, Episode, Info, Space, check_limits, check_space, check_state
from agents.noise import truncated_normal

Algorithm = Literal["ddpg", "td3"]
ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {"ddpg": DDPG, "td3": TD3}
STORED = ("observations", "next_observations", "actions", "rewards", "dones")  # arrays of their replay buffer
LIMITS = {"lr": (1e-12, 10.0)}  # of the numbers in `Settings`: the lowest and the highest


@dataclass(frozen=True, kw_only=True)
class Settings(ActorCritic):
    """Settings of the learner; all others are the library's defaults."""

    algorithm: Algorithm = "ddpg"
    lr: float = 1e-3  # theirs has one for actor and critic

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm {self.algorithm!r}; there are {', '.join(ALGORITHMS)}")
        super().__post_init__()
        check_limits(LIMITS, vars(self))


class _Spaces(gym.Env[Array, Array]):
    """The spaces of an environment, which is all that the library's constructor reads."""

    def __init__(self, observation_space: Space) -> None:
        self.observation_space = observation_space
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)  # what their policies emit


class StableBaselines:
    """An algorithm of Stable-Baselines3 as an `agents.episode.Agent`, with the fields of `Settings`.

    The library draws from the global generators of numpy and torch. While its code runs, these are set to
    states that this agent owns, so that it is deterministic and leaves the global ones as they were.
    """

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int, **settings: Any) -> None:
        check_space(action_space)
        self.settings = s = Settings(**settings)
        self.schedule = s.schedule
        for_model, for_noise = np.random.SeedSequence(seed).spawn(2)
        self.rng = np.random.default_rng(for_noise)
        self.episodes = 0
        self._generators = _generators()  # a placeholder: their constructor seeds all three
        with self._own_generators():
            self.model = ALGORITHMS[s.algorithm](
                "MlpPolicy",
                _Spaces(observation_space),
                learning_rate=s.lr,
                buffer_size=s.memory,
                batch_size=s.batch,
                tau=s.tau,
                gamma=s.gamma,
                policy_kwargs={"net_arch": [s.hidden, s.hidden]},
                seed=int(for_model.generate_state(1)[0]),
                device="cpu",
            )
        self.model.set_logger(Logger(folder=None, output_formats=[]))

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The policy's action mu; with noise when exploring."""
        if "decisions" in info:
            self.settings.updates(info["decisions"])  # none is an error, before the first evaluation
        scaled, _ = self.model.predict(observation, deterministic=True)
        action: Array = ((scaled + 1) / 2).astype(np.float32)
        if not explore:
            return action
        return truncated_normal(action, self.schedule(self.episodes), self.rng)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Store the episode with its reward on each transition; update once for each decision."""
        s, memory = self.settings, self.model.replay_buffer
        assert memory is not None
        reward, last = np.array([episode.reward]), len(episode) - 1
        for t, action in enumerate(2 * episode.executed - 1):
            row = episode.observations[t : t + 1], episode.observations[t + 1 : t + 2]
            memory.add(*row, action[None], reward, np.array([t == last]), [{}])
        metrics = {"sigma": self.schedule(self.episodes)}
        if self.episodes >= s.learn_after:
            self.model.logger.name_to_value.clear()  # losses of an earlier episode
            with self._own_generators():
                self.model.train(s.updates(len(episode)), batch_size=s.batch)
            for name in ("critic_loss", "actor_loss"):
                if f"train/{name}" in self.model.logger.name_to_value:
                    metrics[name] = float(self.model.logger.name_to_value[f"train/{name}"])
        self.episodes += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimizers, replay, generators, counters; the library saves fewer."""
        memory = self.model.replay_buffer
        assert memory is not None
        return (
            self._identity()
            | {
                "parameters": copy.deepcopy(self.model.get_parameters()),
                "updates": self.model._n_updates,  # TD3 delays its policy by it
                "memory": {
                    name: torch.from_numpy(getattr(memory, name)[: memory.size()].copy()) for name in STORED
                },
                "position": memory.pos,
                "full": memory.full,
                "generators": self._generators,
                "rng": self.rng.bit_generator.state,
                "episodes": self.episodes,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for a state of other settings."""
        check_state(state, **self._identity())
        self.model.set_parameters(copy.deepcopy(state["parameters"]), exact_match=True)
        memory = self.model.replay_buffer
        assert memory is not None
        self.model._n_updates = state["updates"]
        memory.pos, memory.full = state["position"], state["full"]
        for name, rows in state["memory"].items():
            getattr(memory, name)[: memory.size()] = rows.numpy()
        self._generators = copy.deepcopy(state["generators"])
        self.rng.bit_generator.state = state["rng"]
        self.episodes = state["episodes"]

    def _identity(self) -> dict[str, Any]:
        shape = self.model.observation_space.shape
        assert shape is not None
        return {"agent": "stable_baselines3", "observation_size": shape[0], "settings": asdict(self.settings)}

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        others, python = _generators(), random.getstate()
        _set_generators(self._generators)
        try:
            yield
        finally:
            self._generators = _generators()
            _set_generators(others)
            random.setstate(python)  # their constructor seeds it, nothing draws from it


def _generators() -> dict[str, Any]:
    """The global states of numpy and torch, as tensors and plain data."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is what their code draws from
    return {
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }


def _set_generators(state: Mapping[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
