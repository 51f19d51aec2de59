"""Statistics: hand-computed values, and properties of every interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.analysis import stats
from experiments.analysis.stats import Estimate, StatsError

SCORES = arrays(np.float64, (7, 2), elements=st.floats(-10, 10))


def median(scores):
    return np.median(scores, axis=(-2, -1))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mean_and_the_value_of_an_estimate():
    scores = [[1.0, 3.0], [2.0, 6.0]]
    assert stats.estimate(scores, stats.mean, rng()).value == 3.0


def test_interval_of_a_coin():
    """The mean of 100 fair coins has a deviation of 0.05; an interval is 1.96 of it to each side."""
    scores = np.repeat([0.0, 1.0], 50)[:, None]
    value, low, high = stats.estimate(scores, stats.mean, rng(), resamples=4000)
    assert value == 0.5
    assert low == pytest.approx(0.402, abs=0.015)
    assert high == pytest.approx(0.598, abs=0.015)
    narrow = stats.estimate(scores, stats.mean, rng(), resamples=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * 0.05, abs=0.012)


def test_tasks_are_strata():
    """Each resample holds every task equally often: tasks that differ add nothing to the width."""
    scores = np.array([[0.0, 100.0]] * 4)
    assert stats.estimate(scores, stats.mean, rng()) == Estimate(50.0, 50.0, 50.0)


def test_tasks_are_drawn_apart():
    """Opposite scores in two tasks would cancel in every resample of whole rows."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])
    _, low, high = stats.estimate(scores, stats.mean, rng())
    assert (low, high) == (0.0, 1.0)


def test_the_generator_decides():
    scores = rng(5).random((10, 1))
    first = stats.estimate(scores, stats.mean, rng(1))
    assert first == stats.estimate(scores, stats.mean, rng(1))
    assert first != stats.estimate(scores, stats.mean, rng(2))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stats.estimate(scores, stats.mean, rng(1))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@given(SCORES)
def test_intervals_lie_within_the_scores(scores):
    for statistic in (stats.mean, median):
        value, low, high = stats.estimate(scores, statistic, rng(), resamples=50)
        assert scores.min() - 1e-9 <= low <= high <= scores.max() + 1e-9
        assert scores.min() - 1e-9 <= value <= scores.max() + 1e-9


@pytest.mark.parametrize("bad", [[], [1.0], [[np.nan]], np.zeros((0, 2))])
def test_what_is_no_table_of_scores(bad):
    with pytest.raises(StatsError, match=r"\(runs, tasks\)"):
        stats.estimate(bad, stats.mean, rng())
