"""When a plan need not be given all images: as soon as it is sure enough to be worse than the best so far.

Plan and incumbent are compared on the same images, so that what is hard about an image cancels. With a_i and
b_i what was measured of the two on image i, n images of the plan's and all N of the incumbent's, the plan's
mean over all N is estimated by

    mean(b_1..b_N) + mean(a_i - b_i, i <= n),    standard error  sqrt(s² / n · (1 - n / N)),

s² the sample variance of the n differences. A split is in random order, so that its first n images are a
sample without replacement: the estimate has no bias, and its error vanishes where n reaches N.

*Source*: Cochran, "Sampling Techniques" (1977), chapter 2 for the finite population and chapter 7 for the
difference estimator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc_env.measures import Evaluation, Images, mean
from amc_env.plan import Plan

BETTER = {"top1": 1, "top5": 1, "agreement": 1, "loss": -1, "kl": -1}  # which way a measure is better
MOST = {"top1": 1.0, "top5": 1.0, "agreement": 1.0, "loss": math.inf, "kl": math.inf}  # the least are all 0


@dataclass(frozen=True)
class Stopping:
    """A plan stops where ``confidence`` standard errors more would still leave it below the incumbent.

    It is below it then also by its estimate. So the best of a search, of which each incumbent is the best
    before it, has always been given all images.

    Args:
        block: images between two looks, at least 2; rounded to whole batches.
        confidence: standard errors.
        worth: (plan, evaluation) -> what is compared; never falls where ``top1``, ``top5`` or ``agreement``
            rises, nor where ``loss`` or ``kl`` falls.
    """

    block: int
    confidence: float
    worth: Callable[[Plan, Evaluation], float]

    def hopeless(self, plan: Plan, found: Images, incumbent: Plan, known: Images, split: str) -> bool:
        """Whether a plan may be stopped.

        Args:
            plan: in question.
            found: ``(n,)`` what was measured of it so far, n > 1.
            incumbent: the best plan so far.
            known: ``(N,)`` what was measured of it, on all images.
            split: where they are from.
        """
        hoped = estimate(found, known, split, errors=self.confidence)
        return self.worth(plan, hoped) < self.worth(incumbent, mean(known, split))


def estimate(found: Images, known: Images, split: str, *, errors: float = 0.0) -> Evaluation:
    """What all images would give, from the first of them.

    Args:
        found: ``(n,)`` the plan's, n > 1.
        known: ``(N,)`` the incumbent's, N >= n.
        split: where they are from.
        errors: by how many standard errors to make every measure better than it is estimated.
    """
    measured = {name: difference(found[name], known[name]) for name in BETTER}
    values = {
        name: min(max(value + BETTER[name] * errors * error, 0.0), MOST[name])
        for name, (value, error) in measured.items()
    }
    skipped, gap_error = len(known) - len(found), measured["top1"][1]
    return Evaluation(**values, n_images=len(found), split=split, skipped=skipped, gap_error=gap_error)


def difference(found: NDArray[np.generic], known: NDArray[np.generic]) -> tuple[float, float]:
    """The mean over N images that ``(n,)`` of a plan and ``(N,)`` of the incumbent let expect; its error."""
    count, whole = len(found), known.astype(np.float64)
    apart = found.astype(np.float64) - whole[:count]
    error = math.sqrt(float(apart.var(ddof=1)) / count * (1 - count / len(whole)))
    return float(whole.mean() + apart.mean()), error
