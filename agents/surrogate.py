"""Bayesian optimisation: a Gaussian process over keep ratios, and expected improvement."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from agents.episode import check_limits
from agents.lattice import Floats, Lattice, Plans
from agents.plan_search import PlanSearch, unit

LENGTHS = np.geomspace(0.1, 5, 9)  # tried length scales, in units of sqrt(T)
NOISES = (1e-5, 1e-2)  # tried variances of the noise, in units of the rewards' variance
ELITES = 10  # best plans whose mutations and neighbours are candidates
CLIMBS = 3  # rounds of neighbours of the most promising candidate
LIMITS = {  # of the settings: the lowest and the highest
    "starts": (1, 1_000_000),
    "candidates": (1, 1_000_000),
    "most": (2, 10_000),
}


class GP(PlanSearch):
    """Plays the plan with the largest expected improvement, among random plans and changes of the best ones.

    The kernel is Matern 5/2 with one length scale in units of sqrt(T), which suits any number of decisions.
    Length scale and noise maximise the marginal likelihood over a grid.

    Source: Jones, Schonlau & Welch, "Efficient Global Optimization", 1998; Rasmussen & Williams, "Gaussian
    Processes for Machine Learning", 2006, equations 2.25, 2.26 and 5.8; Hvarfner et al., "Vanilla Bayesian
    Optimization Performs Great in High Dimensions", ICML 2024, for the scaling by sqrt(T).

    Args:
        starts: different plans before the first fit: the uniform one, then random ones.
        candidates: number of random plans, and of mutations of the best, that a proposal is chosen from.
        most: plans that are fitted at most; beyond that the better half and the latest, with one warning.
    """

    def __init__(
        self, *args: Any, starts: int = 20, candidates: int = 500, most: int = 400, **kwargs: Any
    ) -> None:
        check_limits(LIMITS, {"starts": starts, "candidates": candidates, "most": most})
        self.starts, self.candidates, self.most = starts, candidates, most
        self._thinned = False
        super().__init__(*args, starts=starts, candidates=candidates, most=most, **kwargs)

    def propose(self, lattice: Lattice) -> Plans:
        """The uniform and random plans at first; then the plan with the largest expected improvement."""
        if not len(self.plans):
            first = lattice.filled(lattice.uniform(), self.rng)
            fresh = self.new(np.concatenate([first, lattice.random(self.starts - 1, self.rng)]))
            if len(fresh) < self.starts:
                fresh = self.new(np.concatenate([fresh, lattice.random(4 * self.starts, self.rng)]))
            return fresh[: self.starts]
        return self.climbed(lattice, self.promise(lattice))

    def promise(self, lattice: Lattice) -> Callable[[Plans], Floats]:
        """A function from plans to their expected improvement, after a fit to the played plans."""
        rows = self.fitted_rows()
        fit = Process.fitted(lattice.ratios(self.plans[rows]), standardised(self.rewards[rows]))
        return lambda plans: fit.improvement(lattice.ratios(plans))

    def fitted_rows(self) -> NDArray[np.int64]:
        """Indices of the plans that are fitted; warns once if these are not all."""
        if len(self.rewards) > self.most and not self._thinned:
            self._thinned = True
            warnings.warn(f"GP fits {self.most} plans from here on, the best and the latest", stacklevel=3)
        return thinned(self.rewards, self.most)

    def climbed(self, lattice: Lattice, promise: Callable[[Plans], Floats]) -> Plans:
        """The most promising new plan among random plans, changes of the best, and their neighbours."""
        elites = self.plans[np.argsort(-self.rewards, kind="stable")[:ELITES]]
        pool = [lattice.random(self.candidates, self.rng)]
        pool += [lattice.exchanged(elites[self.rng.integers(len(elites), size=self.candidates)], self.rng)]
        pool += [lattice.neighbours(elite, self.rng) for elite in elites]
        fresh = self.new(np.concatenate(pool))
        if not len(fresh):
            return self.best
        best = fresh[[int(promise(fresh).argmax())]]
        for _ in range(CLIMBS):
            around = self.new(np.concatenate([best, lattice.neighbours(best[0], self.rng)]))
            best = around[[int(promise(around).argmax())]]
        return best


class Process:
    """A Gaussian process with mean 0, fitted to points ``(n, T)`` and values ``(n,)``.

    Args:
        points: of the values.
        values: standardised.
        length: the kernel's length scale.
        noise: variance of the values' noise, in units of the process's own variance.
        correlation: ``(n, n)``, of the points at this length; None to compute it.
    """

    def __init__(
        self, points: Floats, values: Floats, length: float, noise: float, correlation: Floats | None = None
    ) -> None:
        self.points, self.length, self.top = points, length, float(values.max())
        if correlation is None:
            correlation = matern(cdist(points, points) / length)
        covariance = correlation + noise * np.eye(len(points))
        self.factor = cho_factor(covariance, lower=True)
        self.weights = cho_solve(self.factor, values)
        self.variance = float(values @ self.weights) / len(points)
        halves = np.log(np.diag(self.factor[0])).sum()
        self.likelihood = -0.5 * len(points) * np.log(max(self.variance, 1e-300)) - halves

    @classmethod
    def fitted(cls, points: Floats, values: Floats) -> "Process":
        """The process with the largest marginal likelihood over a grid of lengths and noises."""
        distances, tried = cdist(points, points), list[Process]()
        for length in points.shape[1] ** 0.5 * LENGTHS:
            correlation = matern(distances / length)
            tried += [cls(points, values, length, noise, correlation) for noise in NOISES]
        return max(tried, key=lambda process: process.likelihood)

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """``(m,)`` mean and standard deviation at points ``(m, T)``."""
        between = matern(cdist(self.points, points) / self.length)
        spread = 1 - np.square(solve_triangular(self.factor[0], between, lower=True)).sum(0)
        # Equal values have no variance of their own; the improvement must still be a number.
        return between.T @ self.weights, np.sqrt(max(self.variance, 1e-30) * np.maximum(spread, 1e-12))

    def improvement(self, points: Floats) -> Floats:
        """``(m,)``, the expected improvement over the largest value."""
        return expected_improvement(*self.predict(points), self.top)


def matern(distances: NDArray[np.floating]) -> Floats:
    """The Matern 5/2 correlation at distances in length scales."""
    scaled = 5**0.5 * distances
    correlation: Floats = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return correlation


def expected_improvement(mean: Floats, deviation: Floats, top: float) -> Floats:
    """``E[max(f - top, 0)]`` for a normal f."""
    z = (mean - top) / deviation
    density = np.exp(-0.5 * z**2) / (2 * np.pi) ** 0.5
    improvement: Floats = (mean - top) * ndtr(z) + deviation * density
    return improvement


def standardised(rewards: Floats) -> Floats:
    """Scale rewards to mean 0 and deviation 1, after clipping very low ones."""
    rewards = unit(rewards)
    middle, upper = np.quantile(rewards, [0.5, 0.9])
    spread = (upper - middle) or np.inf  # where a tenth and more are equal, nothing is clipped
    clipped = np.maximum(rewards, middle - 3 * spread)
    if np.ptp(clipped) == 0:  # their deviation may be a rounding error
        return np.zeros_like(clipped)
    apart = unit(clipped - clipped.mean())
    values: Floats = apart / np.sqrt(np.square(apart).mean())
    return values


def thinned(rewards: Floats, most: int) -> NDArray[np.int64]:
    """Indices of at most this many rewards: the better half, and the latest of the others."""
    if len(rewards) <= most:
        return np.arange(len(rewards))
    order = np.argsort(-rewards, kind="stable")
    best, rest = order[: most // 2], np.sort(order[most // 2 :])
    return np.sort(np.concatenate([best, rest[len(rest) - (most - most // 2) :]]))
