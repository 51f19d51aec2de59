"""When a plan need not be given all images: as soon as it is sure enough not to be among the best so far.

What the first n of N images say of the others is learnt from the leaders, plans that were given all of them.
Of each leader the mean of a measure over the others, y, is regressed on two means over the first n: x_1, the
same measure, and x_2, the divergence KL(dense, plan), which tells plans apart on fewer images than hits and
misses do. For another plan that gives the mean over all N

    n/N x_1 + (1 - n/N) ŷ,    standard error  (1 - n/N) s sqrt(1 + zᵀ G⁻¹ z),

with s² the residual variance, z = (1, standardised x) and G = ZᵀZ + diag(0, λ, λ) of the leaders' z. The
first images are the same for all plans, so that how hard they are is learnt as well, and the error vanishes
where n reaches N.

*Source*: Valliant, Dorfman & Royall, "Finite Population Sampling and Inference: A Prediction Approach"
(2000), for sums of what was seen and what is predicted; Hoerl & Kennard, "Ridge Regression" (1970), for λ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc_env.metrics import Evaluation, Images, mean
from amc_env.plan import Plan

BETTER = {"top1": 1, "top5": 1, "agreement": 1, "loss": -1, "kl": -1}  # which way a measure is better
MOST = {"top1": 1.0, "top5": 1.0, "agreement": 1.0, "loss": math.inf, "kl": math.inf}  # the least are all 0
RIDGE = 2.0  # λ: as many leaders' weight for that nothing follows from the first images
FEWEST = 10  # leaders, whatever the rank, to learn from

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stopping:
    """A plan stops where ``confidence`` standard errors more would still leave it below a good leader.

    It is below that one then also by its estimate. So as many of the best plans of a search as ``rank``
    says have always been given all images.

    Args:
        block: images between two looks, rounded to whole batches.
        confidence: standard errors, at least 0.
        worth: (plan, evaluation) -> what is compared; never falls where ``top1``, ``top5`` or ``agreement``
            rises, nor where ``loss`` or ``kl`` falls.
        rank: which leader a plan must be below: the best is 1.
    """

    block: int
    confidence: float
    worth: Callable[[Plan, Evaluation], float]
    rank: int = 10

    def least(self, leaders: Sequence[Plan], measured: Sequence[Images], split: str) -> float:
        """What the leader of that rank is worth.

        Args:
            leaders: at least as many as ``rank`` says.
            measured: ``(N,)`` of each, on all images.
            split: where they are from.
        """
        each = zip(leaders, measured, strict=True)
        return sorted(self.worth(leader, mean(images, split)) for leader, images in each)[-self.rank]

    def hopeless(self, plan: Plan, found: Images, known: "Known", least: float, split: str) -> bool:
        """Whether a plan may be stopped.

        Args:
            plan: in question.
            found: ``(n,)`` what was measured of it so far, n < N.
            known: of the leaders.
            least: what it would have to be worth.
            split: where they are from.
        """
        return self.worth(plan, estimate(found, known, split, errors=self.confidence)) < least


def fewest(rank: int) -> int:
    """How many leaders there must be before a plan is stopped for being worse than the one of that rank."""
    return max(2 * rank, FEWEST)


class Known:
    """What was measured of the leaders.

    Args:
        measured: ``(N,)`` of each; more than three.
    """

    def __init__(self, measured: Sequence[Images]) -> None:
        self.images = len(measured[0])
        self._sums = {
            name: np.cumsum([images[name] for images in measured], axis=1, dtype=np.float64)
            for name in BETTER
        }  # (m, N): of the first 1 to N images

    def expected(self, name: str, found: Images) -> tuple[float, float]:
        """The mean of a measure that ``(n,)`` of a plan, n < N, let expect over N; its standard error."""
        count = len(found)
        names = dict.fromkeys((name, "kl"))  # the measure itself, and once the divergence
        firsts = np.stack([self._sums[each][:, count - 1] for each in names], axis=1) / count
        others = (self._sums[name][:, -1] - self._sums[name][:, count - 1]) / (self.images - count)
        seen = np.array([found[each].mean(dtype=np.float64) for each in names])
        rest, error = predicted(firsts, others, seen)
        share = count / self.images
        return float(share * seen[0] + (1 - share) * rest), (1 - share) * error


def predicted(features: Floats, outcomes: Floats, point: Floats) -> tuple[float, float]:
    """A ridge regression's value at a point, and its standard error for a single new outcome there.

    Args:
        features: ``(m, p)``, m > p + 1; where they are all the same nothing is learnt from them.
        outcomes: ``(m,)``.
        point: ``(p,)``.
    """
    count, width = features.shape
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    ones = np.ones((count, 1))
    rows = np.hstack([ones, (features - centre) / scale])
    at = np.concatenate([ones[0], (point - centre) / scale])
    gram = rows.T @ rows + RIDGE * np.diag([0.0] + [1.0] * width)
    slopes, spread = np.linalg.solve(gram, np.stack([rows.T @ outcomes, at], axis=1)).T
    residuals = outcomes - rows @ slopes
    variance = residuals @ residuals / (count - 1 - width) * (1 + at @ spread)
    return float(at @ slopes), math.sqrt(variance)


def estimate(found: Images, known: Known, split: str, *, errors: float = 0.0) -> Evaluation:
    """What all images would give, from the first of them.

    Args:
        found: ``(n,)`` the plan's, 0 < n < N.
        known: the leaders'.
        split: where they are from.
        errors: by how many standard errors to make every measure better than it is estimated.
    """
    measured = {name: known.expected(name, found) for name in BETTER}
    values = {
        name: min(max(value + BETTER[name] * errors * error, 0.0), MOST[name])
        for name, (value, error) in measured.items()
    }
    skipped, gap_error = known.images - len(found), measured["top1"][1]
    return Evaluation(**values, n_images=len(found), split=split, skipped=skipped, gap_error=gap_error)
