"""The metrics of a compressed network on each image, and their means over a split."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

MEANS = ("top1", "top5", "agreement", "loss", "kl")
IMAGE = np.dtype([*zip(MEANS, ("?", "?", "?", "<f4", "<f4"), strict=True), ("said", "<i4")])
Images = NDArray[np.void]
"""``(n,)`` of `IMAGE`: whether the label has the largest logit, whether it is among the five largest, whether
the largest logit is also the dense network's; cross-entropy and KL(dense, compressed) in nats; and the class
of the largest logit."""


class EvaluationError(ArithmeticError):
    """A network whose outputs, or whose reward, are not finite."""


def binomial_error(share: float, count: int) -> float:
    """The standard error of a share in [0, 1] that was counted over ``count`` images."""
    return math.sqrt(share * (1 - share) / count)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of one network: means over ``n_images`` images of a split.

    Attributes:
        top1: fraction of images, in [0, 1], whose label has the largest logit.
        top5: fraction whose label is among the five largest; 1 with at most five classes.
        loss: mean cross-entropy in nats.
        agreement: fraction of images with the same largest logit as in the dense network.
        kl: mean of KL(dense, compressed) between the predicted distributions, in nats.
        n_images: number of images.
        split: the name of their split.
    """

    top1: float
    top5: float
    loss: float
    agreement: float
    kl: float
    n_images: int
    split: str

    @property
    def std_error(self) -> float:
        """Binomial standard error of ``top1`` as an estimate of the true accuracy."""
        return binomial_error(self.top1, self.n_images)


@dataclass(frozen=True, slots=True)
class Score:
    """The value of a user's own metric for one network, which replaces accuracy.

    Attributes:
        top1: the metric; higher is better.
        std_error: its standard error over the images.
        n_images: number of images.
        split: the name of their split.
    """

    top1: float
    std_error: float
    n_images: int
    split: str


def per_image(logits: Tensor, labels: Tensor, dense: Tensor) -> Images:
    """The metrics of each image.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)`` int64.
        dense: ``(n, classes)`` log-probabilities that the dense network predicts.
    """
    said = logits.argmax(1)  # of equal logits the first, as everywhere; topk may take another
    hit = said == labels
    ranked = logits.topk(min(5, logits.size(1)), dim=1).indices
    divergence = F.kl_div(F.log_softmax(logits, dim=1), dense, reduction="none", log_target=True)
    found = {
        "top1": hit,
        "top5": hit | (ranked == labels[:, None]).any(1),
        "agreement": said == dense.argmax(1),
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "kl": divergence.sum(1).clamp_min(0),  # what is below is a rounding error
        "said": said,
    }
    images = np.empty(len(labels), IMAGE)
    for name, values in found.items():
        images[name] = values.cpu().numpy()
    return images


def mean(images: Images, split: str) -> Evaluation:
    """The means over all images, ``(n,)``."""
    means: dict[str, Any] = {name: float(images[name].mean(dtype=np.float64)) for name in MEANS}
    return Evaluation(**means, n_images=len(images), split=split)
