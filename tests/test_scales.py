"""Conversion of actions to keep ratios and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_env.actions import BETA, SCALES, Absolute, Relative
from amc_env.budget import SLACK

ratios = st.floats(0.01, 1.0)


def test_by_hand():
    relative = Relative(beta=math.log(2))
    assert [relative.to_keep(action, 0.4) for action in (0, 0.5, 0.75, 1)] == pytest.approx(
        [0.2, 0.4, 0.4 * 2**0.5, 0.8]
    )
    assert relative.to_keep(1, 0.7) == 1  # never more than everything
    assert [relative.to_action(keep, 0.4) for keep in (0.2, 0.4, 0.8)] == pytest.approx([0, 0.5, 1])
    assert (relative.to_action(0.01, 0.4), relative.to_action(1.0, 0.4)) == (0, 1)
    assert (Absolute().to_keep(0.3, 0.7), Absolute().to_action(0.3, 0.7)) == (0.3, 0.3)


@given(st.floats(0.01, 3), ratios)
def test_the_middle_of_the_relative_scale_is_the_share_itself(beta, share):
    assert Relative(beta).to_keep(0.5, share) == share


@pytest.mark.parametrize("name", SCALES)
@given(st.floats(0, 1), ratios, st.floats(*BETA[:2]))
def test_asking_for_what_was_asked_gives_it_again(name, action, share, beta):
    scale = SCALES[name](beta)
    keep = scale.to_keep(action, share)
    if keep > 0:
        again = scale.to_keep(scale.to_action(keep, share), share)
        assert again == pytest.approx(keep, rel=1e-12)
        single = float(np.float32(scale.to_action(keep, share)))
        assert scale.to_keep(single, share) == pytest.approx(keep, abs=SLACK / 2000)


@pytest.mark.parametrize("name", SCALES)
@given(st.floats(0, 1), st.floats(0, 1), ratios)
def test_a_larger_action_never_asks_for_less(name, one, other, share):
    scale = SCALES[name](0.7)
    assert scale.to_keep(min(one, other), share) <= scale.to_keep(max(one, other), share) <= 1
