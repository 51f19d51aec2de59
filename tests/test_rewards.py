"""Each reward, against hand-computed values."""

import math

import pytest

from amc_env.metrics import Evaluation
from amc_env.rewards import REWARDS

MEASURED = Evaluation(top1=0.9, top5=0.99, loss=0.3, agreement=0.95, kl=0.05, n_images=100, split="reward")

ALIKE = {"macs": 1000, "params": 1000, "bits": 1000, "latency": 1000}

BY_HAND = {
    "error": -0.1,
    "error_top5": -0.01,
    "flops": -0.1 * 15.8949521,  # ln(8,000,000)
    "params": -0.1 * 12.2060726,  # ln(200,000)
    "bits": -0.1 * 13.8155106,  # ln(1,000,000)
    "latency": -0.1 * 14.5086577,  # ln(2,000,000)
    "loss": -0.3,
    "agreement": -0.05,
    "kl": -0.05,
}


@pytest.mark.parametrize("name", REWARDS)
def test_by_hand(name):
    costs = {"macs": 8_000_000, "params": 200_000, "bits": 1_000_000, "latency": 2_000_000}
    assert REWARDS[name](MEASURED, costs) == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize("name", REWARDS)
def test_nothing_is_better_than_no_error(name):
    perfect = Evaluation(1.0, 1.0, 0.0, 1.0, 0.0, 100, "reward")
    assert REWARDS[name](perfect, ALIKE) == 0
    assert REWARDS[name](MEASURED, ALIKE) < 0


def test_r_flops_weighs_cost_and_error():
    """At equal error half of the MACs gain ln 2 times the error; R_Param does not see them."""
    gain = REWARDS["flops"](MEASURED, {"macs": 4_000_000}) - REWARDS["flops"](MEASURED, {"macs": 8_000_000})
    assert gain == pytest.approx(0.1 * math.log(2))
    assert REWARDS["params"](MEASURED, {"macs": 4, "params": 9}) == REWARDS["params"](MEASURED, {"params": 9})
