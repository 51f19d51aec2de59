"""How well metrics before fine-tuning rank plans by their accuracy after it.

A *proxy* is a metric of a plan's network under one order of channels and one repair. Its fidelity is its rank
correlation over the same plans with the accuracy after fine-tuning, the mean of two seeds. The two seeds also
rank plans differently: the correlation between them is the noise ceiling. Their mean varies less than either,
so a proxy may exceed it, up to `of_mean`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from amc_env.checks import number_of
from experiments.analysis import markdown
from experiments.analysis.stats import RESAMPLES, SEED, Estimate, StatsError, tails

METRICS = ("top1", "agreement", "loss", "kl")
LOWER_IS_BETTER = ("loss", "kl")
SHARES = ("params_share", "macs_share")  # costs, as proxies: the larger network is expected to be better
DRAWN = ("magnitude, moments", "elimination, moments", "elimination, sequential")
FEWEST = 3  # plans that a rank correlation can be taken of

Rows = Sequence[Mapping[str, Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """One proxy compared with the accuracy after fine-tuning.

    Attributes:
        repair: the order and the repair, as "elimination, sequential"; empty for a share of the cost.
        metric: one of `METRICS` or `SHARES`.
        spearman: rank correlation with the mean fine-tuned accuracy, in [-1, 1].
        kendall: tau-b, likewise.
        chosen: fine-tuned accuracy in [0, 1] of the plan that the proxy ranks first.
        seconds: median seconds a plan; 0 for a share of the cost.
    """

    repair: str
    metric: str
    spearman: Estimate
    kendall: Estimate
    chosen: float
    seconds: float


def spearman(a: Values, b: Values) -> Values:
    """``(n,)`` Spearman's rank correlations of the rows of two arrays ``(n, plans)``; ties share their rank.

    A row of equal numbers has the correlation 0.
    """
    return _correlation(rankdata(a, axis=1), rankdata(b, axis=1))


def kendall(a: Values, b: Values) -> Values:
    """``(n,)`` Kendall's tau-b of the rows of two arrays ``(n, plans)``; 0 for a row of equal numbers."""
    signs = [np.sign(x[:, :, None] - x[:, None, :]).reshape(len(x), -1) for x in (a, b)]
    return _cosine(*signs)


def fidelities(rows: Rows) -> list[Fidelity]:
    """Every proxy of the rows, the highest Spearman first.

    Args:
        rows: of a record of `experiments.fidelity`: ``proxies``, metrics by order and repair; ``seconds``, by
            the same names; ``tuned``, an accuracy in [0, 1] a seed; shares of the cost.

    Raises:
        StatsError: for fewer than three plans.
    """
    tuned = tuned_accuracies(rows).mean(1)
    found = [_fidelity(rows, tuned, repair, metric) for repair in rows[0]["proxies"] for metric in METRICS]
    found += [_fidelity(rows, tuned, "", share) for share in SHARES]
    return sorted(found, key=lambda one: -one.spearman.value)


def ceiling(rows: Rows) -> tuple[Estimate, Estimate]:
    """Spearman and Kendall between the first two seeds of fine-tuning.

    Raises:
        StatsError: for fewer than three plans or fewer than two seeds.
    """
    tuned = tuned_accuracies(rows)
    if tuned.shape[1] < 2:
        raise StatsError("the noise ceiling is the correlation of two seeds of fine-tuning, here is one")
    return correlations(tuned[:, 0], tuned[:, 1])


def of_mean(agreement: float, seeds: int) -> float:
    """The highest correlation with the mean of some fine-tunings, two of which correlate by ``agreement``.

    It is the root of the mean's reliability. *Source*: Spearman, 1910; Brown, 1910.
    """
    agreement = max(0.0, agreement)
    return float((seeds * agreement / (1 + (seeds - 1) * agreement)) ** 0.5)


def tuned_accuracies(rows: Rows) -> Values:
    """``(plans, seeds)``, in [0, 1]."""
    if len(rows) < FEWEST:
        raise StatsError(f"a rank correlation needs at least {FEWEST} plans, here are {len(rows)}")
    return np.array([row["tuned"] for row in rows], np.float64)


def table(rows: Rows) -> str:
    """A row a proxy in Markdown, the highest correlation first, below the noise ceiling; in percent."""
    tuned = tuned_accuracies(rows)
    mean = tuned.mean(1)
    head = ["order, repair", "proxy", "Spearman", "Kendall", "its best plans, fine-tuned", "seconds a plan"]
    body = []
    if tuned.shape[1] > 1:
        agreed = ceiling(rows)
        top = [f"{one:.2f}" for one in agreed]
        others = [np.delete(tuned, seed, 1).mean(1) for seed in range(tuned.shape[1])]
        chosen = np.mean([other[own == own.max()].mean() for own, other in zip(tuned.T, others, strict=True)])
        body.append(["*fine-tuned, another seed*", "*top1*", *top, f"{100 * chosen:.2f}", ""])
    for one in fidelities(rows):
        shown = f"fine-{one.repair}" if one.repair.startswith("tuned") else one.repair  # "tuned 50 steps"
        cells = [shown, one.metric, f"{one.spearman:.2f}", f"{one.kendall:.2f}"]
        body.append([*cells, f"{100 * one.chosen:.2f}", f"{one.seconds:.2f}" if one.repair else ""])
    note = (
        f"{len(rows)} plans, {number_of(tuned.shape[1], 'seed')} of fine-tuning. Accuracy after it from "
        f"{100 * mean.min():.2f} to {100 * mean.max():.2f} %, mean {100 * mean.mean():.2f} %; brackets are "
        "95 % bootstrap intervals over plans."
    )
    if tuned.shape[1] > 1:
        most = of_mean(agreed[0].value, tuned.shape[1])
        note += f" A perfect proxy would correlate with the mean of the fine-tunings by about {most:.2f}."
    return f"{markdown.table(head, body)}\n\n{note}"


def plot(rows: Rows, path: Path) -> Path:
    """Draw a PNG: fine-tuned accuracy of each plan against its top-1 accuracy under each repair."""
    tuned = 100 * tuned_accuracies(rows).mean(1)
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, len(DRAWN), sharey=True)
    for axis, repair in zip(panels, DRAWN, strict=True):
        top1 = np.array([row["proxies"][repair]["top1"] for row in rows])
        rho = float(spearman(top1[None], tuned[None])[0])
        axis.scatter(100 * top1, tuned, s=14)
        uniform = [at for at, row in enumerate(rows) if row["kind"] == "uniform"]
        axis.scatter(
            100 * top1[uniform], tuned[uniform], s=40, marker="D", color="tab:orange", label="uniform"
        )
        axis.set(title=f"{repair}\nSpearman {rho:.2f}", xlabel="% before fine-tuning")
    panels[0].set_ylabel("% after fine-tuning")
    panels[-1].legend(loc="lower right")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _fidelity(rows: Rows, tuned: Values, repair: str, metric: str) -> Fidelity:
    measured = [row["proxies"][repair] if repair else row for row in rows]
    values = np.array([each[metric] for each in measured], np.float64)
    if metric in LOWER_IS_BETTER:
        values = -values
    rho, tau = correlations(values, tuned)
    seconds = float(np.median([row["seconds"][repair] for row in rows])) if repair else 0.0
    return Fidelity(repair, metric, rho, tau, float(tuned[values == values.max()].mean()), seconds)


def correlations(a: Values, b: Values) -> tuple[Estimate, Estimate]:
    """Spearman's and Kendall's correlation of numbers ``(plans,)``, with bootstrap intervals over plans."""
    drawn = np.random.default_rng(SEED).integers(len(a), size=(RESAMPLES, len(a)))
    found = []
    for correlation in (spearman, kendall):
        low, high = tails(correlation(a[drawn], b[drawn]))
        found.append(Estimate(float(correlation(a[None], b[None])[0]), float(low), float(high)))
    return found[0], found[1]


def _correlation(a: Values, b: Values) -> Values:
    return _cosine(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True))


def _cosine(a: ArrayLike, b: ArrayLike) -> Values:
    """``(n,)`` cosines between the rows of two arrays; 0 if one is zero."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    cosine: Values = np.divide((x * y).sum(1), scale, out=np.zeros(len(x)), where=scale > 0)
    return cosine
