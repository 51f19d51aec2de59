"""Measures the networks that a search ends with on one split, and compares them image by image."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from amc_env import scoring
from amc_env.building import AnyTask
from amc_env.evaluator import logits
from amc_env.execution import CPU
from amc_env.metrics import binomial_error, mean, per_image
from experiments.delivery.table import Gain


@dataclass(frozen=True)
class Judged:
    """The accuracy of a network on one split, or the metric that replaces it.

    Attributes:
        top1: accuracy over all images, or the metric.
        std_error: of ``top1``.
        right: ``(N,)`` bool, whether it is right on each image; None for a metric.
        images: how many.
        logits: ``(N, classes)``; None for a metric.
    """

    top1: float
    std_error: float
    right: torch.Tensor | None
    images: int
    logits: torch.Tensor | None = None


def judge(network: nn.Module, task: AnyTask, split: str) -> Judged:
    """Measure a network as the task does."""
    if task.metric is not None:
        found = scoring.score(network, task.metric, scoring.batches_of(task.data, split, CPU), split)
        return Judged(found.top1, found.std_error, None, found.n_images)
    answers = logits(network, task.data, split)
    right = answers.argmax(1) == task.data[split].labels
    top1 = int(right.sum()) / len(right)
    return Judged(top1, binomial_error(top1, len(right)), right, len(right), answers)


def agreement(found: Judged, dense: Judged, task: AnyTask) -> tuple[float | None, float | None]:
    """The share of test images, in [0, 1], that get the dense network's class, and the mean KL with it."""
    if found.logits is None or dense.logits is None:
        return None, None
    labels = task.data["test"].labels
    both = mean(per_image(found.logits, labels, F.log_softmax(dense.logits, dim=1)), "test")
    return both.agreement, both.kl


def gained(found: Judged, uniform: Judged, *, tuned: bool) -> Gain:
    """The difference in accuracy of two networks on the same images.

    Args:
        found: the network that the search found.
        uniform: the uniform policy's.
        tuned: whether both were fine-tuned.
    """
    if found.right is None or uniform.right is None:
        error = math.hypot(found.std_error, uniform.std_error)
        return Gain(100 * (found.top1 - uniform.top1), 100 * error, found.images, tuned)
    difference = found.right.double() - uniform.right.double()
    error = float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else 0.0
    return Gain(100 * float(difference.mean()), 100 * error, len(difference), tuned)
