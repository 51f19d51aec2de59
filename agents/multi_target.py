"""DDPG for environments whose episodes have goals: what rewards are compared with is kept for each goal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.ddpg import DDPG, deviation
from agents.elites import Guide, Revisits
from agents.episode import Array, Episode, Info, Space
from agents.replay import Batch

NONE = 0.0  # the goal of an episode that has none


@dataclass
class Goal:
    """What is known of one goal: its baseline b, None before its first episode, and its good episodes."""

    revisits: Revisits
    average: float | None = None


class GoalDDPG(DDPG):
    """`DDPG` with one actor and critic for all goals, and a baseline, deviation and good episodes for each.

    The goal is the number under ``target`` in the info of ``reset`` and of the last step, and the observation
    is to show it. A reward within a small budget says nothing against one within a large one, so each is
    centred and scaled among those of its own goal.

    An episode counts for its own goal alone, also where its plan is within other budgets: on the relative
    scale the same actions lead to another plan there.

    Args:
        *args: as of `DDPG`.
        **kwargs: as of `DDPG`.
    """

    def __init__(self, *args: Space, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.settings.baseline == "batches":
            raise ValueError("baseline 'batches' averages over goals; there is 'episodes'")
        self.goals: dict[float, Goal] = {}

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """As of the parent, for the goal of the episode at hand."""
        if "decisions" in info:
            self._turn_to(info.get("target", NONE))
        return super().act(observation, info, explore=explore)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """As of the parent; the baseline that moves is the goal's."""
        goal = self._turn_to(episode.final.get("target", NONE))
        metrics = super().end_episode(episode)
        goal.average = self.average
        return metrics

    def _turn_to(self, target: float) -> Goal:
        """Make a goal's baseline and good episodes those at hand."""
        if target not in self.goals:
            self.goals[target] = Goal(self._revisits())
        self._goal, goal = target, self.goals[target]
        self.revisits, self.average = goal.revisits, goal.average
        return goal

    def _guided(self) -> Guide | None:
        """A good episode of the goal at hand; None where it has none yet."""
        return super()._guided() if self.revisits.best else None

    def _standard(self, batch: Batch) -> tuple[float | Tensor, float | Tensor]:
        """As of the parent, of each transition's own goal."""
        goals, rewards = self.memory.goals, self.memory.rewards
        baseline, scale = torch.zeros_like(batch.reward), torch.ones_like(batch.reward)
        for target, goal in self.goals.items():
            rows = batch.goal == float(np.float32(target))
            if not rows.any():
                continue
            average = self.average if target == self._goal else goal.average
            assert average is not None
            baseline[rows] = average
            if self.settings.normalise:
                scale[rows] = deviation(rewards[goals == np.float32(target)])
        return baseline, scale

    def state_dict(self) -> dict[str, Any]:
        """The parent's, and of each goal its baseline and good episodes."""
        goals = {
            target: {"average": goal.average, "revisits": goal.revisits.state_dict()}
            for target, goal in self.goals.items()
        }
        return super().state_dict() | {"goals": goals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken; raises `StateError` for one of other settings."""
        super().load_state_dict(state)
        self.goals = {}
        for target, saved in state["goals"].items():
            goal = self._turn_to(target)
            goal.average = saved["average"]
            goal.revisits.load_state_dict(saved["revisits"])

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | {"agent": "ddpg_goal"}
