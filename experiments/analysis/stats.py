"""Statistics of scores ``(runs, tasks)``: never a bare mean.

*Source*: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
2021.
Every draw is from a generator that is passed in: the same one gives the same interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], Scores]  # (..., runs, tasks) -> (...)
RESAMPLES = 2000
LEVEL = 0.95


class StatsError(ValueError):
    """Scores that have no such statistic."""


class Estimate(NamedTuple):
    """A statistic and its interval."""

    value: float
    low: float
    high: float


def mean(scores: Scores) -> Scores:
    """``(...)``, over the runs and tasks of ``(..., runs, tasks)``."""
    average: Scores = scores.mean((-2, -1))
    return average


def estimate(
    scores: ArrayLike,
    statistic: Statistic,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """A statistic with its stratified percentile bootstrap interval: runs are resampled within each task.

    Args:
        scores: ``(runs, tasks)``.
        statistic: of arrays ``(..., runs, tasks)``.
        rng: draws the resamples.
        resamples: their number.
        level: fraction of resamples inside the interval.
    """
    values = _scores(scores)
    runs, tasks = values.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    found = statistic(values[drawn, np.arange(tasks)])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(values)), float(low), float(high))


def crossed(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> Estimate:
    """The mean with its percentile bootstrap interval over runs and images at once.

    *Source*: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).

    Args:
        values: ``(runs, images)``.
        rng: draws the resamples.
        resamples: their number.
        level: fraction of resamples inside the interval.
    """
    scores = _scores(values)
    runs, images = (
        rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size for size in scores.shape
    )
    low, high = np.quantile(((runs @ scores) * images).sum(1), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(scores.mean()), float(low), float(high))


def _scores(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise StatsError(f"scores are (runs, tasks), finite and at least one, not {values.shape}: {values}")
    return values
