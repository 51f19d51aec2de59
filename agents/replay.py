"""A replay buffer: a ring of transitions in flat arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.episode import Array


class Batch(NamedTuple):
    """B transitions, float32: observations ``(B, n)``, actions ``(B, 1)``, all others ``(B,)``."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    done: Tensor


class ReplayBuffer:
    """The last ``capacity`` transitions; batches are drawn with replacement by its own generator."""

    def __init__(self, capacity: int, observation_size: int, rng: np.random.Generator) -> None:
        self.capacity, self.rng = capacity, rng
        self.added = 0
        self._fields = {
            "observation": np.zeros((capacity, observation_size), np.float32),
            "action": np.zeros((capacity, 1), np.float32),
            "reward": np.zeros(capacity, np.float32),
            "next_observation": np.zeros((capacity, observation_size), np.float32),
            "done": np.zeros(capacity, np.float32),
        }

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add_episode(self, observations: Array, actions: Array, reward: float) -> None:
        """Store T transitions, the episode's final reward on each (AMC, section 3.2).

        Args:
            observations: ``(T + 1, n)`` float32.
            actions: ``(T, 1)`` float32.
            reward: the episode's.
        """
        count = len(actions)
        assert len(observations) == count + 1, f"{len(observations)} observations for {count} actions"
        rows = {
            "observation": observations[:-1],
            "action": actions,
            "reward": np.full(count, reward, np.float32),
            "next_observation": observations[1:],
            "done": (np.arange(count) == count - 1).astype(np.float32),
        }
        at = (self.added + np.arange(count)) % self.capacity
        for name, row in rows.items():
            field = self._fields[name]
            assert row.shape == (count, *field.shape[1:]), (
                f"{name}: {row.shape} for {field.shape[1:]} a transition"
            )
            assert row.dtype == field.dtype, f"{name}: {row.dtype} for {field.dtype}"
            field[at] = row
        self.added += count

    def sample(self, size: int) -> Batch:
        """``size`` transitions, drawn with replacement."""
        rows = self.rng.integers(len(self), size=size)
        return Batch(**{name: torch.from_numpy(field[rows]) for name, field in self._fields.items()})

    def state_dict(self) -> dict[str, Any]:
        """The stored transitions and the generator."""
        filled = {name: torch.from_numpy(field[: len(self)].copy()) for name, field in self._fields.items()}
        return {"added": self.added, "fields": filled, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore saved transitions and generator."""
        self.added = state["added"]
        for name, field in self._fields.items():
            field[: len(self)] = state["fields"][name].numpy()
        self.rng.bit_generator.state = state["rng"]
