"""Means over runs with their intervals: never a bare mean.

*Source*: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
2021.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
SEED = 0  # of the resamples: the same scores always have the same interval
RESAMPLES = 2000
LEVEL = 0.95  # fraction of resamples inside an interval


class StatsError(ValueError):
    """Scores that have no such statistic."""


class Estimate(NamedTuple):
    """A statistic and its interval."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """Each number in a format: for ".1f", "0.5 [0.4, 0.6]"."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def mean(scores: ArrayLike) -> Estimate:
    """The mean over runs ``(runs,)`` with its percentile bootstrap interval."""
    found = band(_checked(scores, 1)[:, None])
    return Estimate(*(float(each[0]) for each in found))


def band(values: Scores, resamples: int = RESAMPLES) -> tuple[Scores, Scores, Scores]:
    """Mean, low and high of each point of curves ``(runs, points)``; whole runs are resampled."""
    rng = np.random.default_rng(SEED)
    drawn = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
    return values.mean(0), *tails(drawn)


def tails(drawn: Scores) -> Scores:
    """The ends of the interval that holds `LEVEL` of the resamples ``(resamples, ...)``."""
    found: Scores = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return found


def above(scores: ArrayLike, base: ArrayLike) -> Estimate:
    """The difference of two means with its percentile bootstrap interval; the runs of both are resampled.

    Args:
        scores: ``(runs,)``.
        base: ``(other runs,)``, subtracted.
    """
    pair, rng = [_checked(each, 1) for each in (scores, base)], np.random.default_rng(SEED)
    one, other = (each[rng.integers(len(each), size=(RESAMPLES, len(each)))].mean(-1) for each in pair)
    low, high = tails(one - other)
    return Estimate(float(pair[0].mean() - pair[1].mean()), float(low), float(high))


def crossed(scores: ArrayLike) -> Estimate:
    """The mean with its percentile bootstrap interval over runs and images at once.

    *Source*: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).

    Args:
        scores: ``(runs, images)``.
    """
    values = _checked(scores, 2)
    runs, images = _resampled(values.shape)
    low, high = tails(((runs @ values) * images).sum(1))
    return Estimate(float(values.mean()), float(low), float(high))


@lru_cache(maxsize=2)
def _resampled(sizes: tuple[int, ...]) -> list[Scores]:
    """For each axis, ``(RESAMPLES, size)`` weights of its entries in each resample."""
    rng = np.random.default_rng(SEED)
    return [rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size for size in sizes]


def cell(scores: ArrayLike, form: str = ".2f") -> str:
    """A cell of a table: the mean ``(runs,)`` with its interval; a single score stands alone."""
    found = mean(scores)
    return f"{found.value:{form}}" if np.size(scores) == 1 else f"{found:{form}}"


def _checked(scores: ArrayLike, dimensions: int) -> Scores:
    values = np.asarray(scores, np.float64)
    if values.ndim != dimensions or values.size == 0 or not np.isfinite(values).all():
        raise StatsError(f"scores are finite and at least one, not {values.shape}: {values}")
    return values
