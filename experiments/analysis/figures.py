"""The charts of a report as files: one SVG and one PNG each, the same bytes for the same runs."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.analysis.charts import Curve, Point, tuned_front

SIZE = (5.6, 3.6)  # inches
LETTERS, MARK = 100, 7  # of the legend that fit beside each other, and those that a line's mark takes
FEW = 12  # points, each of which has a mark
PAPER, OURS = ", paper", ", ours"  # at the end of a series' name
CLOCKS = {"svg": "Date", "png": "Software"}  # metadata that differ from one writing to the next
ENDINGS = tuple(CLOCKS)
SALT = "amc-rl"  # what matplotlib makes the ids in an SVG of


def curves(
    found: Sequence[Curve],
    stem: Path,
    title: str,
    x_label: str,
    y_label: str,
    endings: Sequence[str] = ENDINGS,
) -> list[Path]:
    """Lines with bands; one of a paper is dashed, in the color of ours; the 11th and later are dotted."""
    figure, axis = _axes(title, x_label, y_label)
    names = dict.fromkeys(curve.series.removesuffix(PAPER).removesuffix(OURS) for curve in found)
    places = {name: at for at, name in enumerate(names)}
    for curve in found:
        at = places[curve.series.removesuffix(PAPER).removesuffix(OURS)]
        color, style = f"C{at % 10}", "--" if curve.series.endswith(PAPER) else "-" if at < 10 else ":"
        mark = "." if len(curve.x) <= FEW else ""
        axis.plot(curve.x, curve.y, style, color=color, label=curve.series, linewidth=1.4, marker=mark)
        if curve.low:
            axis.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    xs = [value for curve in found for value in curve.x]
    if min(xs) > 0 and max(xs) > 10 * min(xs):
        axis.set_xscale("log")
    elif all(isinstance(value, int) for value in xs):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _saved(figure, stem, endings)


def scatter(points: Sequence[Point], stem: Path, title: str, x_label: str, y_label: str) -> list[Path]:
    """Points by series, and their Pareto front."""
    figure, axis = _axes(title, x_label, y_label)
    best = tuned_front(points)
    axis.step(*zip(*best, strict=True), where="post", color="0.6", linewidth=1, zorder=0)
    for at, series in enumerate(dict.fromkeys(point.series for point in points)):
        own = [point for point in points if point.series == series]
        faces = [f"C{at % 10}" if point.solid else "none" for point in own]
        axis.scatter(
            [p.x for p in own], [p.y for p in own], s=24, c=faces, edgecolors=f"C{at % 10}", label=series,
            marker="o" if at < 10 else "s",
        )  # fmt: skip
    return _saved(figure, stem)


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=SIZE, layout="constrained", dpi=120)
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid(alpha=0.25)
    return figure, axis


def _saved(figure: Figure, stem: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    if names := figure.axes[0].get_legend_handles_labels()[1]:
        columns = max(1, min(4, LETTERS // (max(map(len, names)) + MARK)))
        figure.legend(loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in endings]
    with mpl.rc_context({"svg.hashsalt": SALT}):
        for path, ending in zip(paths, endings, strict=True):
            figure.savefig(path, metadata={CLOCKS[ending]: None})
    return paths
