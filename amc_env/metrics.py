"""What is measured of a network on each image, and what that comes to."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

IMAGE = np.dtype([("top1", "?"), ("top5", "?"), ("agreement", "?"), ("loss", "<f4"), ("kl", "<f4")])
Images = NDArray[np.void]
"""``(n,)`` of `IMAGE`: whether the label has the largest logit, or is among the five largest; whether the
largest logit is the dense network's; cross-entropy and KL(dense, this) in nats."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of one network on the first ``n_images`` of a split, or estimated from them.

    Where ``skipped`` is not 0, the means are estimates of those over all images, see `amc_env.stopping`.

    Attributes:
        top1: share of images, in [0, 1], whose label has the largest logit.
        top5: share whose label is among the five largest; equals 1 where there are at most five classes.
        loss: mean cross-entropy in nats.
        agreement: share of images on which the largest logit is that of the dense network.
        kl: mean divergence KL(dense, this) of the predicted distributions in nats.
        skipped: images that were asked for and not run.
        gap_error: standard error of ``top1`` as an estimate of what all images would have given.
    """

    top1: float
    top5: float
    loss: float
    agreement: float
    kl: float
    n_images: int
    split: str
    skipped: int = 0
    gap_error: float = 0.0

    @property
    def std_error(self) -> float:
        """Standard error of ``top1`` as an estimate of the true accuracy.

        Binomial in all images, run or not; where some were not run, the variance of ``gap_error`` is added.
        """
        images = self.n_images + self.skipped
        return math.sqrt(self.top1 * (1 - self.top1) / images + self.gap_error**2)


def per_image(logits: Tensor, labels: Tensor, dense: Tensor) -> Images:
    """What is measured of each image.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)`` int64.
        dense: ``(n, classes)`` logarithms of the dense network's predicted distributions.
    """
    ranked = logits.topk(min(5, logits.size(1)), dim=1).indices
    hits = ranked == labels[:, None]
    divergence = F.kl_div(F.log_softmax(logits, dim=1), dense, reduction="none", log_target=True)
    found = {
        "top1": hits[:, 0],
        "top5": hits.any(1),
        "agreement": ranked[:, 0] == dense.argmax(1),
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "kl": divergence.sum(1),
    }
    images = np.empty(len(labels), IMAGE)
    for name, values in found.items():
        images[name] = values.cpu().numpy()
    return images


def mean(images: Images, split: str) -> Evaluation:
    """The evaluation of a network that all images were run through."""
    means: dict[str, Any] = {name: float(images[name].mean(dtype=np.float64)) for name in IMAGE.names or ()}
    return Evaluation(**means, n_images=len(images), split=split)
