"""Searches of one network compared: a table and plots from the records of `experiments.search`.

Accuracies are of the selection split, in percent, without fine-tuning; those of a search are of the plan that
was confirmed among its best.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis import markdown, stats
from experiments.analysis.regret import PLOTTED, SEED, against, band, cell

OURS = "ddpg"  # the learner as these records name it; it is now `ddpg_elites`

Records = Sequence[Mapping[str, Any]]
Scores = dict[str, dict[float, dict[int, float]]]  # agent, target, seed: accuracy in percent


def scores(records: Records) -> Scores:
    """Selection accuracy by agent, target and seed."""
    found: Scores = {}
    for record in records:
        targets = found.setdefault(record["agent"], {})
        top1 = 100 * record["best"]["selection"]["top1"]
        targets.setdefault(record["target"], {})[record["seeds"]["search"]] = top1
    return found


def table(records: Records) -> str:
    """A row an agent, the least accurate at the smallest target first.

    For each target: the interquartile mean over seeds with its 95 % interval, and the mean difference to ours
    by seed with its own; a policy that draws nothing has one record, which stands against every seed.
    """
    every = scores(records)
    targets = sorted({target for found in every.values() for target in found}, reverse=True)
    evaluations = {record["agent"]: record["episodes"] for record in records}
    head = ["agent", "evaluations", "seeds"]
    for target in targets:
        head += [f"{100 * target:g} % of the MACs", f"below `{OURS}` by", f"P(`{OURS}` better)"]
    lines = []
    for name in sorted(every, key=lambda name: _mean(every[name].get(targets[-1], {}))):
        seeds = max(len(found) for found in every[name].values())
        cells = [f"`{name}`", str(evaluations[name]), str(seeds)]
        for target in targets:
            theirs, ours = every[name].get(target, {}), every.get(OURS, {}).get(target, {})
            cells += [_accuracy(theirs), *(("", "") if name == OURS else _versus(theirs, ours))]
        lines.append(cells)
    return markdown.table(head, lines)


def plot(records: Records, path: Path, names: Sequence[str] = PLOTTED) -> Path:
    """Best reward so far against evaluations and against seconds, a row a target, with 95 % bands; a PNG."""
    targets = sorted({record["target"] for record in records}, reverse=True)
    figure = Figure(figsize=(9.2, 3.4 * len(targets)), layout="constrained", dpi=120)
    axes = figure.subplots(len(targets), 2, squeeze=False, sharey="row")
    for row, target in zip(axes, targets, strict=True):
        for at, name in enumerate(names):
            chosen = [r for r in records if (r["agent"], r["target"]) == (name, target) and "elapsed" in r]
            if chosen:
                _draw(row, chosen, color=f"C{at}", label=name, linewidth=2 if name == OURS else 1.2)
        for axis, unit in zip(row, ("evaluations", "seconds"), strict=True):
            axis.set(xscale="log", xlabel=unit)
            axis.set_title(f"{100 * target:g} % of the MACs", fontsize=10)
            axis.grid(alpha=0.25)
        row[0].set_ylabel("best reward so far")
    lines = {line.get_label(): line for axis in axes.flat for line in axis.lines}
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=max(1, len(lines)), fontsize=8
    )
    figure.savefig(path)
    return path


def _draw(axes: Sequence[Any], records: Records, **style: Any) -> None:
    """One agent's curves against evaluations and seconds; a line where it has but one evaluation."""
    if len(records[0]["rewards"]) == 1:
        for axis in axes:
            axis.axhline(records[0]["rewards"][0], linestyle=":", **style)
        return
    for axis, curves in zip(axes, (by_evaluation(records), by_second(records)), strict=True):
        x, middle, low, high = curves
        axis.plot(x, middle, **style)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def best_so_far(records: Records) -> NDArray[np.float64]:
    """``(seeds, episodes)``, the highest reward after each evaluation."""
    return np.maximum.accumulate([record["rewards"] for record in records], axis=1)


def by_evaluation(records: Records) -> tuple[NDArray[Any], ...]:
    """Evaluations, mean and interval of the best so far."""
    return band(best_so_far(records))


def by_second(records: Records, points: int = 60) -> tuple[NDArray[Any], ...]:
    """Seconds from the first moment at which all have an answer to the first at which one has ended."""
    curves, elapsed = best_so_far(records), np.array([record["elapsed"] for record in records])
    seconds = np.geomspace(elapsed[:, 0].max(), elapsed[:, -1].min(), points)
    at = np.array([np.searchsorted(run, seconds, side="right") - 1 for run in elapsed])
    values = np.take_along_axis(curves, at, axis=1)
    rng = np.random.default_rng(SEED)
    estimates = [stats.estimate(values[:, [i]], stats.mean, rng, resamples=500) for i in range(points)]
    return seconds, *np.array(estimates).T


def _mean(found: Mapping[int, float]) -> float:
    return float(np.mean(list(found.values()))) if found else 0.0


def _accuracy(found: Mapping[int, float]) -> str:
    if not found:
        return ""
    values = np.array(list(found.values()))[:, None]
    if len(values) == 1:
        return f"{values.item():.2f}"
    return cell(stats.estimate(values, stats.iqm, np.random.default_rng(SEED)))


def _versus(theirs: Mapping[int, float], ours: Mapping[int, float]) -> tuple[str, str]:
    """How far ours is above, paired by the seeds that both have, and how often it is."""
    shared = sorted(ours if len(theirs) == 1 else theirs.keys() & ours.keys())
    if not theirs or not shared:
        return "", ""
    only = next(iter(theirs.values()))
    a = np.array([theirs.get(seed, only) for seed in shared])[:, None]
    b = np.array([ours[seed] for seed in shared])[:, None]
    below, better = against(-a, -b)
    return below, better
