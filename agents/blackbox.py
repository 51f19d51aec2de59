"""Black-box optimisers: the actions of the T decisions are one point in [0, 1]^T; observations are ignored.

Each optimiser is a generator: it yields a batch of points and receives their rewards. It depends only on its
seed and on the rewards, so these are its saved state: it is restored by sending it the same rewards again.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.episode import Array, Episode, Info, Space, check_limits, check_space, check_state

Point = NDArray[np.float64]  # (T,), in [0, 1]
Proposals = Generator[Sequence[Point], Sequence[float], None]

MIDDLE = 0.5  # the uniform policy on the relative scale
LIMITS = {  # of the settings: the lowest and the highest
    "sigma": (1e-6, 10.0),
    "population": (0, 100_000),
    "spread": (1e-2, 1.0),
    "levels": (1, 10_000),
}


class BlackBox(ABC):
    """An agent that proposes whole episodes: action t of the current point is played at decision t.

    Args:
        observation_space: ignored.
        action_space: ``Box(0, 1, (1,))``.
        decisions: T.
        seed: of the points.
        **settings: of the optimiser; kept for the check of a saved state.
    """

    def __init__(
        self, observation_space: Space, action_space: Space, *, decisions: int, seed: int, **settings: float
    ) -> None:
        check_space(action_space)
        self.decisions, self.settings = decisions, settings
        self._origin = np.random.default_rng(seed).bit_generator.state
        self._decision = 0
        self._restart()

    @abstractmethod
    def proposals(self, rng: np.random.Generator) -> Proposals:
        """Yield non-empty batches of points, receive their rewards; after the end the best is played."""

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """The action of the point to try, or of the best so far when not exploring."""
        if "decisions" in info:
            if info["decisions"] != self.decisions:
                raise ValueError(
                    f"built for decisions={self.decisions}, but the episode has {info['decisions']}"
                )
            self._decision = 0
        point = self._points[len(self._told)] if explore else self._best
        self._decision += 1
        return point[self._decision - 1 : self._decision].astype(np.float32)

    def end_episode(self, episode: Episode) -> dict[str, float]:
        """Learn the reward of the point that was played."""
        self._tell(episode.reward)
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The random generator's first state, and all rewards since."""
        return self._identity() | {"origin": self._origin, "rewards": list(self._rewards)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; raises `StateError` for another optimiser's state."""
        check_state(state, **self._identity())
        self._origin = state["origin"]
        self._restart()
        for reward in state["rewards"]:
            self._tell(reward)

    def _identity(self) -> dict[str, Any]:
        return {"agent": type(self).__name__.lower(), "decisions": self.decisions, "settings": self.settings}

    def _restart(self) -> None:
        rng = np.random.default_rng()
        rng.bit_generator.state = self._origin
        self._rewards: list[float] = []
        self._best, self._best_reward = np.full(self.decisions, MIDDLE), -np.inf
        self._proposals = self.proposals(rng)
        self._points, self._told = next(self._proposals), list[float]()

    def _tell(self, reward: float) -> None:
        self._rewards.append(reward)
        if reward > self._best_reward:
            self._best, self._best_reward = self._points[len(self._told)], reward
        self._told.append(reward)
        if len(self._told) < len(self._points):
            return
        try:
            self._points, self._told = self._proposals.send(self._told), []
        except StopIteration:
            self._points, self._told = [self._best], []


class RandomSearch(BlackBox):
    """Draws every action uniformly from [0, 1]."""

    def proposals(self, rng: np.random.Generator) -> Proposals:
        """Points drawn uniformly, without end."""
        while True:
            yield [rng.random(self.decisions)]


class CMAES(BlackBox):
    """Covariance matrix adaptation; once converged it restarts from the middle with twice the population.

    Source: Hansen & Ostermeier, 2001; for the restarts, Auger & Hansen, CEC 2005; the package ``cma``.

    Args:
        sigma: the first step's deviation, in units of the action.
        population: points a generation; 0 for the package's choice, 4 + 3 log T.
    """

    def __init__(self, *args: Any, sigma: float = 0.2, population: int = 0, **kwargs: Any) -> None:
        try:
            import cma  # here, because it takes seconds that other agents need not wait for
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("CMAES needs the package cma: pip install 'amc-rl[cmaes]'") from error
        check_limits(LIMITS, {"sigma": sigma, "population": population})
        if population == 1:
            raise ValueError(
                "population is 1: give at least 2 points a generation, or 0 for the package's choice"
            )
        self._cma: Any = cma  # an untyped package
        self.sigma, self.population = sigma, population
        super().__init__(*args, sigma=sigma, population=population, **kwargs)

    def strategy(self, options: dict[str, Any]) -> Any:
        """A fresh search of the package, which needs two coordinates: beside one decision, one is idle."""
        return self._cma.CMAEvolutionStrategy([MIDDLE] * max(2, self.decisions), self.sigma, options)

    def played(self, point: Point) -> Point:
        """The actions of a point, without an idle coordinate."""
        actions: Point = np.clip(point[: self.decisions], 0, 1)
        return actions

    def options(self, rng: np.random.Generator) -> dict[str, Any]:
        """The package's options: bounds, silence, and all its draws from ``rng``."""
        options: dict[str, Any] = {
            "bounds": [0, 1],
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": np.nan,  # leave the global generator alone
            "verbose": -9,
            "signals_filename": "",  # do not read options from the working directory
        }
        return options | ({"popsize": self.population} if self.population else {})

    def proposals(self, rng: np.random.Generator) -> Proposals:
        """Generation after generation; the package minimises."""
        options = self.options(rng)
        while True:
            strategy = self.strategy(options)
            while not strategy.stop():
                points = strategy.ask()
                rewards = yield [self.played(point) for point in points]
                strategy.tell(points, [-reward for reward in rewards])
            options["popsize"] = 2 * strategy.popsize


class Greedy(BlackBox):
    """Measures the sensitivity of one decision at a time, then bisects the loss that each may cost.

    A round tries each decision at a few levels around the centre, with all others at the centre. Given a
    threshold, each decision takes the lowest level that loses no more, or else its best level. A bisection
    finds the best threshold. The next round starts from the best point with half the spread. A point that
    was played is not played again: its reward is known.

    Args:
        spread: of the first round's levels around the centre.
        levels: how many, on either side.
    """

    def __init__(self, *args: Any, spread: float = 0.5, levels: int = 2, **kwargs: Any) -> None:
        check_limits(LIMITS, {"spread": spread, "levels": levels})
        self.spread, self.levels = spread, levels
        super().__init__(*args, spread=spread, levels=levels, **kwargs)

    def proposals(self, rng: np.random.Generator) -> Proposals:
        """Rounds, until the levels are too close to differ."""
        self._known = dict[bytes, float]()
        centre, spread = np.full(self.decisions, MIDDLE), self.spread
        (value,) = yield from self._measured([centre])
        offsets = np.linspace(-1, 1, 2 * self.levels + 1)
        while spread > 1e-3:
            levels = np.clip(
                centre + spread * offsets[:, None], 0, 1
            )  # (L, T), ascending; the middle is the centre
            tried = levels != centre
            changed = [_replaced(centre, index, levels[at, index]) for at, index in np.argwhere(tried)]
            rewards = yield from self._measured(changed)
            losses = np.zeros_like(levels)
            losses[tried] = value - np.array(rewards)
            centre, value = yield from self._bisect(levels, losses, centre, value)
            spread /= 2

    def _measured(self, points: Sequence[Point]) -> Generator[Sequence[Point], Sequence[float], list[float]]:
        """The rewards of points; those that are unknown are played, each once."""
        fresh = {each.tobytes(): each for each in points if each.tobytes() not in self._known}
        if fresh:
            rewards = yield list(fresh.values())
            self._known |= dict(zip(fresh, rewards, strict=True))
        return [self._known[each.tobytes()] for each in points]

    def _bisect(
        self, levels: Point, losses: Point, centre: Point, value: float
    ) -> Generator[Sequence[Point], Sequence[float], tuple[Point, float]]:
        """The best point among the centre and the thresholds' points, and its reward."""
        thresholds, known = np.unique(losses), dict[int, float]()
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            if asked := [index for index in (middle, middle + 1) if index not in known]:
                points = [accept(levels, losses, thresholds[index]) for index in asked]
                rewards = yield from self._measured(points)
                known |= dict(zip(asked, rewards, strict=True))
                top = int(np.argmax(rewards))
                if rewards[top] > value:
                    centre, value = points[top], rewards[top]
            low, high = (low, middle) if known[middle] >= known[middle + 1] else (middle + 1, high)
        return centre, value


def accept(levels: Point, losses: Point, threshold: float) -> Point:
    """For each decision, the lowest level whose loss is within the threshold, else the level of least loss.

    Args:
        levels: ``(L, T)``, ascending along the first axis.
        losses: ``(L, T)``.
        threshold: in units of the reward.
    """
    within = losses <= threshold
    chosen = np.where(within.any(axis=0), within.argmax(axis=0), losses.argmin(axis=0))
    accepted: Point = levels[chosen, np.arange(levels.shape[1])]
    return accepted


def _replaced(point: Point, index: int, value: float) -> Point:
    changed = point.copy()
    changed[index] = value
    return changed
