"""Statistics: hand-computed values, and properties of every interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.analysis import stats
from experiments.analysis.stats import Estimate, StatsError

SCORES = arrays(np.float64, 7, elements=st.floats(-10, 10))


def test_interval_of_a_coin():
    """The mean of 100 fair coins has a deviation of 0.05; an interval is 1.96 of it to each side."""
    scores = np.repeat([0.0, 1.0], 50)
    value, low, high = stats.mean(scores)
    assert value == 0.5
    assert low == pytest.approx(0.402, abs=0.015)
    assert high == pytest.approx(0.598, abs=0.015)


def test_a_difference_has_the_spread_of_both():
    """Means of 100 fair coins: the difference of two has a deviation of 0.05 times the root of 2."""
    coins = np.repeat([0.0, 1.0], 50)
    both, one = stats.above(coins + 3, coins), stats.above(coins + 3, [1.0])
    assert both.value == 3
    assert both.high - both.low == pytest.approx(2 * 1.96 * 0.05 * 2**0.5, abs=0.02)
    assert one.value == 2.5
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.05, abs=0.02)


def test_a_cell_has_an_interval_from_two_scores_on():
    assert stats.cell([1.0]) == "1.00"
    assert stats.cell([2.0, 2.0], "+.1f") == "+2.0 [+2.0, +2.0]"
    assert f"{Estimate(0.5, 0.25, 0.75):.2f}" == "0.50 [0.25, 0.75]"


def test_an_interval_is_the_same_each_time():
    scores = np.random.default_rng(5).random(10)
    assert stats.mean(scores) == stats.mean(scores)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stats.mean(scores)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@given(SCORES)
def test_intervals_lie_within_the_scores(scores):
    value, low, high = stats.mean(scores)
    assert scores.min() - 1e-9 <= low <= high <= scores.max() + 1e-9
    assert scores.min() - 1e-9 <= value <= scores.max() + 1e-9


@pytest.mark.parametrize("bad", [[], [[1.0]], [np.nan]])
def test_scores_that_are_refused(bad):
    with pytest.raises(StatsError, match="scores are finite and at least one"):
        stats.mean(bad)
