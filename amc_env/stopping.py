"""When a plan need not be given all images: as soon as it is sure enough to be worse than the best so far.

Plan and leaders, the best plans so far, are compared on the same images, so that what is hard about an image
cancels. With a_i what was measured of the plan on image i, of n, and b_i the mean of what was measured of the
leaders, on all N, the plan's mean over all N is estimated by

    mean(b_1..b_N) + mean(a_i - b_i, i <= n),    standard error  sqrt(s² / n · (1 - n / N)),

s² the sample variance of the n differences; it is the less, the more leaders there are, for a mean knows
better than one plan how hard an image is. A split is in random order, so that its first n images are a sample
without replacement: the estimate has no bias, and its error vanishes where n reaches N.

*Source*: Cochran, "Sampling Techniques" (1977), chapter 2 for the finite population and chapter 7 for the
difference estimator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc_env.measures import Evaluation, Images, mean
from amc_env.plan import Plan

BETTER = {"top1": 1, "top5": 1, "agreement": 1, "loss": -1, "kl": -1}  # which way a measure is better
MOST = {"top1": 1.0, "top5": 1.0, "agreement": 1.0, "loss": math.inf, "kl": math.inf}  # the least are all 0

Known = Mapping[str, NDArray[np.floating]]
"""``(N,)`` of each measure: its mean over the leaders, image by image."""


@dataclass(frozen=True)
class Stopping:
    """A plan stops where ``confidence`` standard errors more would still leave it below all leaders.

    It is below them then also by its estimate. So the best of a search, whose leaders are each time as many
    of the best before, have always been given all images.

    Args:
        block: images between two looks, at least 2; rounded to whole batches.
        confidence: standard errors.
        worth: (plan, evaluation) -> what is compared; never falls where ``top1``, ``top5`` or ``agreement``
            rises, nor where ``loss`` or ``kl`` falls.
    """

    block: int
    confidence: float
    worth: Callable[[Plan, Evaluation], float]

    def least(self, leaders: Sequence[Plan], measured: Sequence[Images], split: str) -> float:
        """What the worst of the leaders is worth.

        Args:
            leaders: at least one.
            measured: ``(N,)`` of each, on all images.
            split: where they are from.
        """
        each = zip(leaders, measured, strict=True)
        return min(self.worth(leader, mean(images, split)) for leader, images in each)

    def hopeless(self, plan: Plan, found: Images, known: Known, least: float, split: str) -> bool:
        """Whether a plan may be stopped.

        Args:
            plan: in question.
            found: ``(n,)`` what was measured of it so far, n > 1.
            known: of the leaders, see `average`.
            least: what it would have to be worth.
            split: where they are from.
        """
        return self.worth(plan, estimate(found, known, split, errors=self.confidence)) < least


def average(measured: Sequence[Images]) -> Known:
    """The mean of what was measured of each of the leaders, ``(N,)`` of them all."""
    return {name: np.mean([images[name] for images in measured], axis=0, dtype=np.float64) for name in BETTER}


def estimate(found: Images, known: Known, split: str, *, errors: float = 0.0) -> Evaluation:
    """What all images would give, from the first of them.

    Args:
        found: ``(n,)`` the plan's, n > 1.
        known: ``(N,)`` the leaders', N >= n.
        split: where they are from.
        errors: by how many standard errors to make every measure better than it is estimated.
    """
    measured = {name: difference(found[name], known[name]) for name in BETTER}
    values = {
        name: min(max(value + BETTER[name] * errors * error, 0.0), MOST[name])
        for name, (value, error) in measured.items()
    }
    skipped, gap_error = len(known["top1"]) - len(found), measured["top1"][1]
    return Evaluation(**values, n_images=len(found), split=split, skipped=skipped, gap_error=gap_error)


def difference(found: NDArray[np.generic], known: NDArray[np.generic]) -> tuple[float, float]:
    """The mean over N images that ``(n,)`` of a plan and ``(N,)`` of the leaders let expect; its error."""
    count, whole = len(found), known.astype(np.float64)
    apart = found.astype(np.float64) - whole[:count]
    error = math.sqrt(float(apart.var(ddof=1)) / count * (1 - count / len(whole)))
    return float(whole.mean() + apart.mean()), error
