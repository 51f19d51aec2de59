"""The accuracy that each budget allows: read off the plans of one search, drawn and shown.

A plan within a budget is also within every larger one, whatever target it was found for. So the plan of a
target is the best of all plans that cost no more, and the curve never falls.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluation
from amc_env.plan import Plan
from experiments.recording.plans import counts, uniform, within
from experiments.recording.record import RunRecord

PLOT = "curve.png"
Row = Mapping[str, Any]
Measured = Sequence[tuple[Row, Evaluation]]  # a search's row, and its plan's evaluation on selection


class CurveError(ValueError):
    """A budget for which a search has no plan."""


def chosen(env: CompressionEnv, measured: Measured) -> tuple[Row, Evaluation]:
    """The most accurate on selection within an environment's budget, of equals that of the larger reward.

    Raises:
        CurveError: when none is within it.
    """
    affordable = [item for item in measured if env.budget.allows(item[0]["counts"])]
    if not affordable:
        raise CurveError(
            f"no episode of the search is within {env.target} of the {env.budget.unit}: "
            "search with more episodes, or a smaller target among targets"
        )
    return max(affordable, key=lambda item: (item[1].top1, item[0]["reward"]))


def curve(
    aims: Sequence[CompressionEnv], measured: Measured, judge: Callable[[Plan], Evaluation]
) -> list[dict[str, Any]]:
    """A point an environment, each with a target of its own; those without any plan are left out.

    Returns:
        Of each: ``target``; the plan's ``counts``, ``macs_share``, ``reward``, ``episode`` and its accuracy
        ``selection`` in [0, 1]; ``uniform``, ``macs_share`` and ``selection`` of the uniform plan.
    """
    points = []
    for env in aims:
        if not within(env, [row for row, _ in measured]):
            continue
        row, selection = chosen(env, measured)
        reference = uniform(env)
        spent = env.costs(counts(env, reference))["macs"] / env.costs([])["macs"]
        points.append(
            {"target": env.target}
            | {key: row[key] for key in ("counts", "macs_share", "reward", "episode")}
            | {"selection": selection.top1}
            | {"uniform": {"macs_share": float(spent), "selection": judge(reference).top1}}
        )
    return points


def draw(
    aims: Sequence[CompressionEnv],
    measured: Measured,
    judge: Callable[[Plan], Evaluation],
    record: RunRecord,
) -> None:
    """Add the curve to a record's results, and show it: a table, and a plot in its folder."""
    points = curve(aims, measured, judge)
    record.update(results={"curve": points})
    show(points, plot(points, record.folder / PLOT))


def plot(points: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Accuracy on selection against the share of the MACs, uniform beside it; a PNG."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", dpi=120)
    axis = figure.subplots()
    for name, found in {"search": points, "uniform": [point["uniform"] for point in points]}.items():
        shares, top1 = ([100 * float(one[key]) for one in found] for key in ("macs_share", "selection"))
        axis.plot(shares, top1, marker="o", markersize=3, label=name)
    axis.set(xlabel="MACs, % of the dense network's", ylabel="accuracy on selection, %")
    axis.grid(alpha=0.25)
    axis.legend()
    figure.savefig(path)
    return path


def show(points: Sequence[Mapping[str, Any]], path: Path, console: Console | None = None) -> None:
    """Print a row a target, and where the plot is."""
    console = console or Console()
    table = Table("target, %", "MACs, %", "selection, %", "uniform, %", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for point in points:
        shares = (100 * point["target"], 100 * point["macs_share"])
        top1 = (100 * point["selection"], 100 * point["uniform"]["selection"])
        table.add_row(*(f"{value:.1f}" for value in shares), *(f"{value:.2f}" for value in top1))
    console.print(table)
    console.print(f"curve: {path}", highlight=False, soft_wrap=True)
