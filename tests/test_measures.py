"""Metrics of images and their means, against hand-computed values."""

import math

import pytest
import torch

from amc_env.metrics import IMAGE, Evaluation, mean, per_image


def logs(*probabilities):
    return torch.tensor(probabilities).log()


OURS = logs(
    (0.50, 0.10, 0.10, 0.10, 0.10, 0.10),
    (0.40, 0.08, 0.20, 0.15, 0.12, 0.05),
    (0.30, 0.20, 0.20, 0.15, 0.10, 0.05),
)
DENSE = logs(
    (0.50, 0.10, 0.10, 0.10, 0.10, 0.10),
    (0.20, 0.30, 0.20, 0.10, 0.10, 0.10),
    (0.30, 0.20, 0.20, 0.15, 0.10, 0.05),
)
LABELS = torch.tensor([0, 1, 5])


def test_three_images_by_hand():
    """Six classes; the first image is hit, the second is fifth, the third is last of all."""
    found = per_image(OURS + 3, LABELS, DENSE)  # a constant changes no distribution
    assert found.dtype == IMAGE
    assert found["top1"].tolist() == [True, False, False]
    assert found["top5"].tolist() == [True, True, False]
    assert found["agreement"].tolist() == [True, False, True]
    assert found["loss"] == pytest.approx([-math.log(p) for p in (0.5, 0.08, 0.05)], rel=1e-6)
    pairs = ((0.2, 0.4), (0.3, 0.08), (0.2, 0.2), (0.1, 0.15), (0.1, 0.12), (0.1, 0.05))  # dense, ours
    kl = sum(p * math.log(p / q) for p, q in pairs)
    assert found["kl"] == pytest.approx([0, kl, 0], rel=1e-5, abs=1e-6)
    whole = mean(found, "reward")
    assert (whole.top1, whole.top5, whole.agreement) == (1 / 3, 2 / 3, 2 / 3)
    assert whole.loss == pytest.approx(-(math.log(0.5) + math.log(0.08) + math.log(0.05)) / 3, rel=1e-6)
    assert whole.kl == pytest.approx(kl / 3, rel=1e-5)
    assert (whole.n_images, whole.split) == (3, "reward")


def test_top5_is_certain_where_there_are_at_most_five_classes():
    logits = torch.zeros(2, 3)
    assert per_image(logits, torch.tensor([2, 0]), logits)["top5"].all()


def test_a_divergence_is_never_negative():
    logits = 5 * torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    nearly = (logits + 1e-7).log_softmax(1)
    assert per_image(logits, torch.zeros(1000, dtype=torch.int64), nearly)["kl"].min() == 0


def test_of_equal_logits_the_first_is_the_prediction():
    level = torch.zeros(3, 10)
    found = per_image(level, torch.tensor([0, 1, 9]), level.log_softmax(1))
    assert found["said"].tolist() == [0, 0, 0]
    assert found["top1"].tolist() == [1, 0, 0]
    assert found["agreement"].all()
    assert (found["top5"] >= found["top1"]).all()


def test_the_standard_error_is_binomial():
    assert Evaluation(0.9, 1, 0, 1, 0, 400, "reward").std_error == pytest.approx(0.015)
    assert Evaluation(1.0, 1, 0, 1, 0, 400, "reward").std_error == 0
