"""DDPG as AMC uses it.

Source: Lillicrap et al., ICLR 2016 (the algorithm); He et al., "AMC", ECCV 2018, section 3.2 (truncated
normal noise, the episode's reward on every transition, a moving-average baseline, gamma 1).
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.episode import Array, Episode, Info, Space, check_limits, check_space, check_state
from agents.networks import Network, descend, policy, policy_value, q_values, soft_update
from agents.noise import truncated_normal
from agents.replay import Batch, ReplayBuffer

LIMITS = {  # of the numbers in `Settings`: the lowest and the highest
    "lr_actor": (1e-12, 10.0),
    "lr_critic": (1e-12, 10.0),
    "baseline_rate": (0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Settings(ActorCritic):
    """All settings of the learner."""

    lr_actor: float = 1e-4  # not in the paper, the released code's; so is the critic's
    lr_critic: float = 1e-3
    baseline_rate: float = 0.05  # weight of the newest reward in the moving average b

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(LIMITS, vars(self))


def td_target(reward: Tensor, baseline: float, done: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """AMC's target of the critic, ``r - b + gamma (1 - done) Q'(s', mu'(s'))``; all ``(B,)``."""
    return reward - baseline + gamma * (1 - done) * next_q


def moving_average(average: float, value: float, rate: float) -> float:
    """An exponential moving average after one more value."""
    return average + rate * (value - average)


class DDPG:
    """Deep deterministic policy gradient: an actor, a critic, their targets, and a replay buffer.

    Args:
        observation_space: a flat ``Box`` of n features.
        action_space: ``Box(0, 1, (1,))``.
        seed: seeds three generators of its own, for networks, noise and replay.
        **settings: fields of `Settings`.
    """

    def __init__(self, observation_space: Space, action_space: Space, *, seed: int, **settings: Any) -> None:
        check_space(action_space)
        if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"the observation space is {observation_space}: {type(self).__name__} reads a flat vector; "
                "wrap the environment in gymnasium's FlattenObservation"
            )
        self.settings = s = Settings(**settings)
        self.schedule = s.schedule
        self.observation_size = size = observation_space.shape[0]
        for_networks, for_noise, for_replay = np.random.SeedSequence(seed).spawn(3)
        generator = torch.Generator().manual_seed(int(for_networks.generate_state(1, np.uint64)[0] >> 1))
        self.rng = np.random.default_rng(for_noise)
        self.memory = ReplayBuffer(s.memory, size, np.random.default_rng(for_replay))

        self.actor = Network((size, s.hidden, s.hidden, 1), generator)
        self.critic = Network((size + 1, s.hidden, s.hidden, 1), generator)
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), s.lr_actor, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), s.lr_critic, fused=True)
        self.episodes = 0
        self.average: float | None = None  # b

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The policy's action mu; with noise when exploring."""
        if "decisions" in info:
            self.settings.updates(info["decisions"])  # none is an error, before the first evaluation
        mu = self._mu(observation)
        return truncated_normal(mu, self.schedule(self.episodes), self.rng) if explore else mu

    def _mu(self, observation: Array) -> Array:
        with torch.inference_mode():
            mu: Array = policy(self.actor, torch.from_numpy(observation)[None])[0].numpy()
        return mu

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Store the episode, update once for each decision, then add its reward to the baseline."""
        s = self.settings
        self.memory.add_episode(episode.observations, episode.executed, episode.reward)
        if self.average is None:
            self.average = episode.reward
        metrics = {"sigma": self.schedule(self.episodes), "baseline": self.average}
        if self.episodes >= s.learn_after:
            updates = [self._update() for _ in range(s.updates(len(episode)))]
            metrics |= dict(zip(("critic_loss", "q"), np.mean(updates, axis=0).tolist(), strict=True))
        self.average = moving_average(self.average, episode.reward, s.baseline_rate)
        self.episodes += 1
        return metrics

    def _update(self) -> tuple[float, float]:
        """One step of critic, actor and targets; returns the critic's loss and Q(s, mu(s))."""
        batch = self.memory.sample(self.settings.batch)
        target = self._target(batch)
        loss = (q_values(self.critic, batch.observation, batch.action) - target).square().mean()
        descend(self.critic_optimizer, loss)

        q = policy_value(self.actor, self.critic, batch.observation).mean()
        descend(self.actor_optimizer, -q)

        soft_update(self.critic_target, self.critic, self.settings.tau)
        soft_update(self.actor_target, self.actor, self.settings.tau)
        return loss.item(), q.item()

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """The critic's target for each transition, ``(B,)``."""
        assert self.average is not None
        next_q = policy_value(self.actor_target, self.critic_target, batch.next_observation)
        return td_target(batch.reward, self.average, batch.done, next_q, self.settings.gamma)

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimizers, memory, generators and counters."""
        modules = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()}
        counters = {"episodes": self.episodes, "average": self.average, "rng": self.rng.bit_generator.state}
        return self._identity() | modules | counters

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for a state of other settings."""
        check_state(state, **self._identity())
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))
        self.episodes, self.average = state["episodes"], state["average"]
        self.rng.bit_generator.state = state["rng"]

    def _identity(self) -> dict[str, Any]:
        return {"agent": "ddpg", "observation_size": self.observation_size, "settings": asdict(self.settings)}

    def _parts(self) -> dict[str, Any]:
        networks = ("actor", "critic", "actor_target", "critic_target")
        return {
            name: getattr(self, name) for name in (*networks, "actor_optimizer", "critic_optimizer", "memory")
        }
