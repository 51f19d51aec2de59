"""Draws the best reward so far of searches, from the rows of `experiments.policies`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis import stats
from experiments.analysis.regret import BEST, OURS

POINTS = 60  # of a curve against seconds

Rows = Sequence[Mapping[str, Any]]
Band = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]  # places, mean, low, high


def searched(rows: Rows) -> list[float]:
    """The targets, the largest first, at which there is a search with a curve; a rule has one evaluation."""
    return sorted({row["target"] for row in rows if len(row.get("curve", ())) > 1}, reverse=True)


def plot(rows: Rows, path: Path) -> Path:
    """Draw a PNG: against evaluations and against seconds, a row of panels a target, with 95 % bands.

    A rule is a dotted line. Targets without a search are left out; there must be one with a search.
    """
    targets, rows = searched(rows), [row for row in rows if "curve" in row]
    names = sorted({row["policy"] for row in rows})
    figure = Figure(figsize=(9.2, 3.4 * len(targets) + 0.6), layout="constrained", dpi=120)
    axes = figure.subplots(len(targets), 2, squeeze=False, sharey="row")
    for panels, target in zip(axes, targets, strict=True):
        for at, name in enumerate(names):
            chosen = [row for row in rows if (row["policy"], row["target"]) == (name, target)]
            if chosen:
                width = 2.0 if name in (BEST, OURS) else 1.2
                style = {"color": f"C{at % 10}", "label": name, "linewidth": width}
                _draw(panels, chosen, style, dashed=at >= 10)
        for axis, unit in zip(panels, ("evaluations", "seconds"), strict=True):
            axis.set(xscale="log", xlabel=unit)
            axis.set_title(f"{100 * target:g} % of the cost", fontsize=10)
            axis.grid(alpha=0.25)
        panels[0].set_ylabel("best reward so far")
    lines = {line.get_label(): line for axis in axes.flat for line in axis.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path)
    return path


def _draw(panels: Sequence[Any], rows: Rows, style: Mapping[str, Any], *, dashed: bool) -> None:
    if len(rows[0]["curve"]) == 1:
        for axis in panels:
            axis.axhline(rows[0]["curve"][0][1], linestyle=":", **style)
        return
    for axis, band in zip(panels, (by_evaluation(rows), by_second(rows)), strict=True):
        x, middle, low, high = band
        axis.plot(x, middle, linestyle="--" if dashed else "-", **style)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)


def by_evaluation(rows: Rows) -> Band:
    """The best reward so far at the evaluations of the rows' curves, which are the same in all rows."""
    curves = np.array([row["curve"] for row in rows], np.float64)  # (seeds, points, 2)
    return curves[0, :, 0], *stats.band(curves[:, :, 1])


def by_second(rows: Rows) -> Band:
    """The best reward so far, while every search has a result and none has ended."""
    values = np.array([row["curve"] for row in rows], np.float64)[:, :, 1]
    elapsed = np.array([row["curve_seconds"] for row in rows])
    seconds = np.geomspace(max(elapsed[:, 0].max(), 1e-3), max(elapsed[:, -1].min(), 1e-3), POINTS)
    at = np.array([np.searchsorted(run, seconds, side="right") - 1 for run in elapsed])
    return seconds, *stats.band(np.take_along_axis(values, np.maximum(at, 0), axis=1))
