"""How much of a trained network's logits a refit restores after half of every group is removed."""

from pathlib import Path

import pytest
import torch

from amc_env import checkpoints as weights
from amc_env.building import make_env
from amc_env.data.splits import DataError, data_folder, load
from amc_env.env import CompressionEnv
from amc_env.plan import Plan


@pytest.fixture(autouse=True)
def fresh_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments are collected here, not read from an earlier run; the data stay where they are."""
    (tmp_path / "data").symlink_to(data_folder())
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))


def half(env: CompressionEnv) -> Plan:
    plan = Plan.dense(env.graph)
    for group in env.graph.groups:
        plan = plan.with_group(group.index, env.compressor.choose(group.index, len(group) // 2))
    return plan


@pytest.mark.parametrize(
    ("stem", "moments", "sequential"),
    [
        ("digits_cnn-digits", 3, 10),
        pytest.param("plain20-fashion_mnist", 1.4, 6, marks=pytest.mark.slow),
    ],
)
def test_a_refit_lowers_the_error_of_a_shipped_networks_logits(
    stem: str, moments: float, sequential: float
) -> None:
    """Mean squared error of the logits against the dense network's, without a refit over that with one.

    On images that the refit has not seen. Measured: 5.4 and 17 on digits, 1.7 and 9 on Fashion-MNIST. The
    sequential refit gives the factor of 3 that is wanted on both. Moments of the dense network give it on the
    shallow network only: what the layers before get wrong adds up over twenty, and they do not see it.
    """
    model, card = weights.load(weights.shipped(stem))
    try:
        data = load(card.data)
    except DataError as error:
        pytest.skip(str(error))
    images = data.normalise(data["reward"].head(500).images)
    errors = {}
    for refit in ("none", "moments", "sequential"):
        env = make_env(model, data, round_to=1, repair=refit, calibration_images=300, reward_images=1)
        network = env.task.network(half(env)).eval()
        with torch.no_grad():
            errors[refit] = (network(images) - model(images)).square().mean().item()
    assert errors["none"] / errors["moments"] > moments
    assert errors["none"] / errors["sequential"] > sequential
