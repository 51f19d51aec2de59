"""Rewards of a compressed network, from its metrics and its cost.

*Source*: AMC, section 3.3. R_err goes with a bound on the action (resource-constrained search). R_FLOPs and
R_Param go without a bound and weigh the cost themselves (accuracy-guaranteed search); the logarithm is
natural, as in the released code. ``latency`` is R_FLOPs with measured time, ``bits`` with the size.
``loss``, ``agreement`` and ``kl`` are not in the paper: on the same images they have less variance than the
error, because they use whole distributions or compare with the dense network image by image.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amc_env.metrics import Evaluation, EvaluationError

Costs = Mapping[str, int]  # of the network, by resource: "macs", "params" and what else is priced
Reward = Callable[[Any, Costs], float]  # of an `Evaluation`; those in `OF_SCORES` also of a `Score`


def error(evaluation: Evaluation, costs: Costs) -> float:
    """R_err = -Error: in [-1, 0] for an accuracy, a user's metric minus 1 for another."""
    return evaluation.top1 - 1


def error_top5(evaluation: Evaluation, costs: Costs) -> float:
    """R_err on the top-5 error, in [-1, 0]."""
    return evaluation.top5 - 1


def _error(evaluation: Evaluation) -> float:
    """-Error, where it is weighed by a cost: a metric above 1 would turn the weight around."""
    if evaluation.top1 > 1:
        raise EvaluationError(
            f"the metric is {evaluation.top1:g}, and a reward that weighs a cost takes at most 1: divide it, "
            "percent by 100"
        )
    return evaluation.top1 - 1


def weighed(resource: str, evaluation: Evaluation, costs: Costs) -> float:
    """R_FLOPs = -Error log(FLOPs), R_Param, and the same of bits or nanoseconds: not positive."""
    return _error(evaluation) * math.log(costs[resource])


def loss(evaluation: Evaluation, costs: Costs) -> float:
    """Minus the cross-entropy in nats, not positive."""
    return -evaluation.loss


def agreement(evaluation: Evaluation, costs: Costs) -> float:
    """Minus the share of images that are predicted otherwise than by the dense network, in [-1, 0]."""
    return evaluation.agreement - 1


def divergence(evaluation: Evaluation, costs: Costs) -> float:
    """Minus KL(dense, compressed) in nats, not positive."""
    return -evaluation.kl


REWARDS: dict[str, Reward] = {
    "error": error,
    "error_top5": error_top5,
    "flops": partial(weighed, "macs"),
    "params": partial(weighed, "params"),
    "bits": partial(weighed, "bits"),
    "latency": partial(weighed, "latency"),
    "loss": loss,
    "agreement": agreement,
    "kl": divergence,
}

WEIGHED = {"flops": "macs", "params": "params", "bits": "bits", "latency": "latency"}
"""The resource that a reward reads, by its name."""

OF_SCORES = ("error", *WEIGHED)
"""Rewards that read nothing but top-1, or the metric of the user's own in its place."""
