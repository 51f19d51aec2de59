"""The base of agents that propose whole plans: propose a plan, play it, store its reward."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from agents.episode import Array, Episode, EpisodeError, Info, Space, check_space, check_state
from agents.lattice import Floats, Lattice, Plans

TRIES = 50  # changes of a plan until one is new
VERSION = 2  # of a saved state


class PlanSearch(ABC):
    """Proposes plans from all plans so far and their rewards.

    The info of ``reset`` must hold ``choices`` and ``costs``, see `agents.lattice.Lattice`. Each info
    before a decision must hold ``actions``: for each choice, the action that asks for it. On the absolute
    scale every plan can be asked for. On the relative scale some choices are out of reach, and a plan may
    exceed a budget that ``costs`` give only approximately; the agent then stores the plan that was
    executed instead, and does not ask for the other again.

    Args:
        observation_space: ignored.
        action_space: ``Box(0, 1, (1,))``.
        seed: of the agent's own generator.
        **settings: kept for the check of a saved state.
    """

    scale: ClassVar[str] = "absolute"  # on which every plan can be asked for

    def __init__(
        self, observation_space: Space, action_space: Space, *, seed: int, **settings: float
    ) -> None:
        check_space(action_space)
        self.settings = settings
        self.rng = np.random.default_rng(seed)
        self.lattice: Lattice | None = None
        self._described: dict[str, Any] = {}
        self._plans: list[list[int]] = []
        self._refused: list[list[int]] = []  # proposals in whose place another plan was played
        self._rewards: list[float] = []
        self._queue: list[list[int]] = []
        self._decision = 0

    @abstractmethod
    def propose(self, lattice: Lattice) -> Plans:
        """``(n, T)``, the plans to play next, at least one; made from `plans` and `rewards`."""

    @property
    def plans(self) -> Plans:
        """``(n, T)`` plans that were played."""
        return np.array(self._plans, np.int64)

    @property
    def rewards(self) -> Floats:
        """``(n,)`` their rewards."""
        return np.array(self._rewards)

    @property
    def best(self) -> Plans:
        """``(1, T)``, the plan with the largest reward."""
        return self.plans[[int(self.rewards.argmax())]]

    def new(self, plans: Plans) -> Plans:
        """The plans that were not played or refused yet, in order and without duplicates."""
        known, found = {tuple(plan) for plan in (*self._plans, *self._refused)}, []
        for plan in map(tuple, plans.tolist()):
            if plan not in known:
                known.add(plan)
                found.append(plan)
        return np.array(found, np.int64).reshape(-1, plans.shape[1])

    def mutated(self, lattice: Lattice) -> Plans:
        """``(1, T)``, a new change of the best plan or random plan that uses up the budget, else a neighbour.

        Where no plan exceeds the budget only neighbours and plans that do not use it up are left. If there is
        none of those either: the best again.
        """
        fresh = self.new(lattice.exchanged(self.best.repeat(TRIES, axis=0), self.rng))
        if not len(fresh):
            fresh = self.new(lattice.random(TRIES, self.rng))
        if not len(fresh):
            fresh = self.rng.permutation(self.new(lattice.neighbours(self.best[0], self.rng)))
        if not len(fresh):
            fresh = self.new(lattice.anywhere(TRIES, self.rng))
        return fresh[:1] if len(fresh) else self.best

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action that asks for the current plan's choice, or for the best plan's when not exploring."""
        if "decisions" in info:
            self._begin(info)
        assert self.lattice is not None
        plan = self._queue[0] if explore else (self.best if self._plans else self.lattice.uniform())[0]
        action = info["actions"][plan[self._decision]]
        self._decision += 1
        return np.array([action], np.float32)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Store the executed plan and its reward."""
        assert self.lattice is not None
        kept = np.array([[info["keep_applied"] for info in episode.infos]])
        asked, executed = self._queue.pop(0), self.lattice.positions(kept)[0].tolist()
        if asked != executed:
            self._refused.append(asked)
        self._plans.append(executed)
        self._rewards.append(episode.reward)
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All plans and rewards, the plans to play next, and the generator."""
        return self._identity() | {
            "described": self._described,
            "plans": torch.from_numpy(self.plans),
            "refused": [list(plan) for plan in self._refused],
            "rewards": list(self._rewards),
            "queue": [list(plan) for plan in self._queue],
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for another agent's state."""
        check_state(state, **self._identity())
        self._described = dict(state["described"])
        self.lattice = Lattice(**self._described) if self._described else None
        self._plans, self._rewards = state["plans"].tolist(), list(state["rewards"])
        self._refused, self._queue = ([list(plan) for plan in state[key]] for key in ("refused", "queue"))
        self.rng.bit_generator.state = state["rng"]

    def _begin(self, info: Info) -> None:
        if missing := {"choices", "costs", "actions"} - set(info):
            raise EpisodeError(
                f"no {', '.join(sorted(missing))} in the info of reset; {type(self).__name__} needs the "
                "choices of each decision, their costs, and the actions that ask for them"
            )
        self._decision = 0
        described = {"choices": info["choices"], "costs": info["costs"]}
        if self.lattice is None:
            self._described, self.lattice = described, Lattice(**described)
        elif described != self._described:
            raise EpisodeError(
                f"{type(self).__name__} searches one budget of one network; this episode has others"
            )
        if not self._queue:
            self._queue = self.propose(self.lattice).tolist()

    def _identity(self) -> dict[str, Any]:
        return {"agent": type(self).__name__.lower(), "settings": self.settings, "version": VERSION}


def unit(values: Floats) -> Floats:
    """Values divided by a power of two, so that the largest has a size from 0.5 to 1; zeros stay zeros.

    This loses no digits, and squares of rewards such as 1e-300 or 1e300 become possible.
    """
    scaled: Floats = np.ldexp(values, -np.frexp(np.abs(values).max())[1])
    return scaled
