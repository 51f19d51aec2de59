"""Rewards: what a compressed network is worth, from its metrics and its cost.

*Source*: AMC, section 3.3. R_err goes with a bound on the action (resource-constrained search). R_FLOPs and
R_Param go without a bound and weigh the cost themselves (accuracy-guaranteed search); the logarithm is
natural, as in the released code. ``loss``, ``agreement`` and ``kl`` are not in the paper: on the same images
they have less variance than the error, because they use whole distributions or compare with the dense network
image by image.
"""

import math
from collections.abc import Callable

from amc_env.metrics import Evaluation

Reward = Callable[[Evaluation, int, int], float]
"""(evaluation, MACs, parameters) -> reward."""


def error(evaluation: Evaluation, macs: int, params: int) -> float:
    """R_err = -Error, in [-1, 0]."""
    return evaluation.top1 - 1


def error_top5(evaluation: Evaluation, macs: int, params: int) -> float:
    """R_err on the top-5 error, in [-1, 0]."""
    return evaluation.top5 - 1


def flops(evaluation: Evaluation, macs: int, params: int) -> float:
    """R_FLOPs = -Error log(FLOPs), not positive."""
    return (evaluation.top1 - 1) * math.log(macs)


def parameters(evaluation: Evaluation, macs: int, params: int) -> float:
    """R_Param = -Error log(#Param), not positive."""
    return (evaluation.top1 - 1) * math.log(params)


def loss(evaluation: Evaluation, macs: int, params: int) -> float:
    """Minus the cross-entropy in nats, not positive."""
    return -evaluation.loss


def agreement(evaluation: Evaluation, macs: int, params: int) -> float:
    """Minus the share of images that are predicted otherwise than by the dense network, in [-1, 0]."""
    return evaluation.agreement - 1


def divergence(evaluation: Evaluation, macs: int, params: int) -> float:
    """Minus KL(dense, compressed) in nats, not positive."""
    return -evaluation.kl


REWARDS: dict[str, Reward] = {
    "error": error,
    "error_top5": error_top5,
    "flops": flops,
    "params": parameters,
    "loss": loss,
    "agreement": agreement,
    "kl": divergence,
}
