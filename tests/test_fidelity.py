"""Rank correlations of proxies with accuracies after fine-tuning."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from experiments.analysis import fidelity
from experiments.analysis.stats import StatsError

NUMBERS = st.lists(st.integers(0, 6).map(float), min_size=3, max_size=12)


def row(top1: float, kl: float, tuned: list[float], params: float = 0.5) -> dict[str, object]:
    metrics = {"top1": top1, "agreement": top1, "loss": kl, "kl": kl}
    return {
        "proxies": {"elimination, moments": metrics}, "seconds": {"elimination, moments": 2.0},
        "tuned": tuned, "params_share": params, "macs_share": 0.5,
    }  # fmt: skip


@given(NUMBERS, st.randoms(use_true_random=False))
def test_correlations_are_scipys(values, random):
    other = list(values)
    random.shuffle(other)
    if len(set(values)) == 1:
        assert fidelity.spearman(np.array([values]), np.array([other]))[0] == 0
        assert fidelity.kendall(np.array([values]), np.array([other]))[0] == 0
        return
    a, b = np.array([values]), np.array([other])
    assert fidelity.spearman(a, b)[0] == pytest.approx(spearmanr(values, other).statistic, abs=1e-12)
    assert fidelity.kendall(a, b)[0] == pytest.approx(kendalltau(values, other).statistic, abs=1e-12)


def test_one_swap_of_four_plans_by_hand():
    # ranks 1 2 3 4 against 2 1 3 4: rho = 1 - 6 * 2 / (4 * 15) = 0.8, tau = (5 - 1) / 6
    rows = [row(t, -t, [u, u]) for t, u in ((0.1, 0.6), (0.2, 0.5), (0.3, 0.7), (0.4, 0.8))]
    found = {one.metric: one for one in fidelity.fidelities(rows)}
    assert found["top1"].spearman.value == pytest.approx(0.8)
    assert found["top1"].kendall.value == pytest.approx(2 / 3)
    assert found["kl"].spearman.value == pytest.approx(0.8), "a low divergence is a high proxy"
    assert found["top1"].chosen == 0.8
    assert found["top1"].seconds == 2.0
    assert found["macs_share"].spearman.value == 0, "equal numbers rank nothing"
    assert found["macs_share"].chosen == pytest.approx(0.65), "of plans that are ranked alike, the mean"


def test_the_ceiling_is_what_two_seeds_agree_on():
    rows = [row(0.1, 0.0, [a, b]) for a, b in ((0.1, 0.1), (0.2, 0.2), (0.3, 0.4), (0.4, 0.3))]
    rho, tau = fidelity.ceiling(rows)
    assert (rho.value, tau.value) == (pytest.approx(0.8), pytest.approx(2 / 3))
    assert rho.low <= rho.value <= rho.high


def test_the_table_has_the_ceiling_first_and_then_every_proxy():
    rows = [row(t, 1 - t, [t, t]) for t in (0.1, 0.2, 0.3)]
    lines = fidelity.table(rows).splitlines()
    assert lines[2].startswith("| *fine-tuned, another seed* | *top1* | 1.00")
    assert len([line for line in lines if line.startswith("|")]) == 3 + 4 + 2


def test_a_short_fine_tuning_as_a_proxy_has_its_name_spelled_out():
    rows = [row(t, 1 - t, [t, t]) for t in (0.1, 0.2, 0.3)]
    for each in rows:
        each["proxies"]["tuned 50 steps"] = next(iter(each["proxies"].values()))
        each["seconds"]["tuned 50 steps"] = 3.0
    assert "| fine-tuned 50 steps | top1 |" in fidelity.table(rows)


def test_what_a_proxy_can_reach_by_hand():
    assert fidelity.of_mean(0.92, 2) == pytest.approx((1.84 / 1.92) ** 0.5)
    assert fidelity.of_mean(0.5, 3) == pytest.approx(0.75**0.5)
    assert fidelity.of_mean(1.0, 2) == 1
    assert fidelity.of_mean(-1.0, 2) == 0


def test_the_choice_of_a_tuning_is_judged_by_the_other_tuning():
    rows = [row(0.1, 0.0, [0.5, 0.2]), row(0.2, 0.0, [0.1, 0.6]), row(0.3, 0.0, [0.3, 0.3])]
    assert fidelity.table(rows).splitlines()[2].split("|")[5].strip() == "15.00"  # 0.2 and 0.1


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_plans_are_refused(count):
    with pytest.raises(StatsError, match=f"at least 3 plans, here are {count}"):
        fidelity.table([row(0.1, 0.1, [0.1])] * count)


def test_one_seed_has_no_ceiling():
    with pytest.raises(StatsError, match="here is one"):
        fidelity.ceiling([row(0.1, 0.1, [0.1])] * 3)
