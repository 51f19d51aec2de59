"""Regret on the tabular benchmark: a table and a plot from a record of `experiments.compare`.

Regret is the known best accuracy within the budget minus that of the best plan found, in points of a percent.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis import markdown, stats
from experiments.analysis.stats import Estimate

NEAR = 0.1  # points: as good as the best
SEED = 0  # of every bootstrap here
OURS = "ddpg_elites"
PLOTTED = ("uniform", "random", "cmaes", "ddpg_paper", "sb3_td3", "gp", "ddpg_elites")

Regrets = dict[str, NDArray[np.float64]]


def regrets(record: Mapping[str, Any]) -> Regrets:
    """By contender, ``(targets, seeds, episodes)``: the regret after each evaluation, in points."""
    config, known = record["config"], record["results"]["known_best"]
    shape = (len(config["targets"]), config["seeds"], config["episodes"])
    found: Regrets = {name: np.full(shape, np.nan) for name in config["contenders"]}
    for row in record["rows"]:
        at = config["targets"].index(row["target"]), row["seed"]
        for evaluation, top1 in row["curve"]:
            found[row["contender"]][*at, evaluation - 1 :] = 100 * (known[str(row["target"])] - top1)
    return found


def evaluations(regret: NDArray[np.float64], near: float = NEAR) -> NDArray[np.float64]:
    """``(...)`` the first evaluation with which a run ``(..., episodes)`` is near the best; else infinity."""
    reached = regret <= near + 1e-9
    return np.where(reached.any(-1), reached.argmax(-1) + 1.0, np.inf)


def table(record: Mapping[str, Any]) -> str:
    """A row a contender, the one with the largest regret first."""
    every, config = regrets(record), record["config"]
    final = {name: curves[..., -1].T for name, curves in every.items()}  # (seeds, targets)
    ours = next((name for name in final if name == OURS), None)
    targets = [f"{100 * target:g} % of the MACs" for target in config["targets"]]
    head = ["agent", *targets, "both", "within 0.1 point", "evaluations to it"]
    if len(targets) == 1:
        head.remove("both")
    if ours is not None:
        head += [f"worse than `{OURS}` by", f"P(`{OURS}` better)"]
    lines = []
    for name in sorted(final, key=lambda name: -stats.iqm(final[name])):
        columns = [final[name][:, [t]] for t in range(len(targets))]
        columns += [final[name]] if len(targets) > 1 else []
        cells = [name, *(cell(_estimate(column)) for column in columns)]
        needed = evaluations(every[name])
        median = float(np.median(needed))
        cells += [f"{np.isfinite(needed).mean():.0%}", f"{median:.0f}" if np.isfinite(median) else "-"]
        if ours is not None:
            cells += ["", ""] if name == ours else against(final[name], final[ours])
        lines.append(cells)
    return markdown.table(head, lines)


def by_evaluations(record: Mapping[str, Any], at: Sequence[int] = (50, 100, 200, 400)) -> str:
    """A row a contender: the mean regret of seeds and targets after so many evaluations, the worst first."""
    every = regrets(record)
    lines = []
    for name in sorted(every, key=lambda name: -float(every[name][..., at[-1] - 1].mean())):
        scores = [every[name][..., count - 1].T for count in at]  # (seeds, targets) each
        near = np.isfinite(evaluations(every[name])).mean()
        lines.append([f"`{name}`", *map(_mean, scores), f"{near:.0%}"])
    return markdown.table(["agent", *(str(count) for count in at), "within 0.1 point"], lines)


def pooled(records: Iterable[Mapping[str, Any]], at: Sequence[int] = (50, 100, 200)) -> str:
    """A row a contender: its mean regret over all records, and by how much it is worse than `OURS`."""
    every = [regrets(record) for record in records]
    found = {
        name: [np.concatenate([one[name][..., count - 1].ravel() for one in every]) for count in at]
        for name in every[0]
    }
    lines = []
    for name, scores in found.items():
        apart = [theirs - ours for theirs, ours in zip(scores, found[OURS], strict=True)]
        worse = [_mean(each[:, None]) if name != OURS else "" for each in apart]
        means = [f"{score.mean():.2f}" for score in scores]
        lines.append([f"`{name}`", *(cell for pair in zip(means, worse, strict=True) for cell in pair)])
    head = [cell for count in at for cell in (str(count), f"worse than `{OURS}` by")]
    return markdown.table(["agent", *head], lines)


def plot(record: Mapping[str, Any], path: Path, names: Sequence[str] = PLOTTED) -> Path:
    """Mean regret so far against evaluations, one panel a target, with 95 % bands; a PNG."""
    every, targets = regrets(record), record["config"]["targets"]
    figure = Figure(figsize=(4.6 * len(targets), 3.6), layout="constrained", dpi=120)
    axes = np.atleast_1d(figure.subplots(1, len(targets)))
    for t, (axis, target) in enumerate(zip(axes, targets, strict=True)):
        for at, name in enumerate(name for name in names if name in every):
            x, middle, low, high = band(every[name][t])
            axis.plot(x, middle, color=f"C{at}", label=name, linewidth=2 if name == OURS else 1.2)
            axis.fill_between(x, low, high, color=f"C{at}", alpha=0.15, linewidth=0)
        axis.set(xscale="log", xlim=(1, record["config"]["episodes"]), xlabel="evaluations")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(bottom=0)
        axis.set_title(f"{100 * target:g} % of the MACs", fontsize=10)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("regret of the best so far, points")
    axes[-1].legend(fontsize=8)
    figure.savefig(path)
    return path


def band(curves: NDArray[np.float64], points: int = 60) -> tuple[NDArray[Any], ...]:
    """Evaluations, mean and interval of curves ``(seeds, episodes)``, at places even on a log scale."""
    at = np.unique(np.geomspace(1, curves.shape[1], points).round().astype(int))
    estimates = [
        stats.estimate(curves[:, [x - 1]], stats.mean, np.random.default_rng(SEED), resamples=500) for x in at
    ]
    return at, *np.array(estimates).T


def against(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> list[str]:
    """Two cells of losses ``(seeds, targets)``: by how much theirs are more, and how often ours are less."""
    difference = stats.paired_difference(theirs, ours, np.random.default_rng(SEED))
    return [cell(difference, sign="+"), f"{stats.probability_of_improvement(-ours, -theirs):.2f}"]


def _mean(scores: NDArray[np.float64]) -> str:
    return cell(stats.estimate(scores, stats.mean, np.random.default_rng(SEED)))


def _estimate(scores: NDArray[np.float64]) -> Estimate:
    return stats.estimate(scores, stats.iqm, np.random.default_rng(SEED))


def cell(estimate: Estimate, sign: str = "") -> str:
    """A value and its interval."""
    value, low, high = (round(part, 2) + 0.0 for part in estimate)  # no minus zero
    return f"{value:{sign}.2f} [{low:.2f}, {high:.2f}]"
