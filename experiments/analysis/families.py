"""Compares ways of compressing: a table and a figure from records of `experiments.policies`.

A record's name consists of the comparison, the network and data, and what is special about the record:
``families-plain20-cifar10-low_rank``, ``stages-plain20-cifar10-one_shot``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from amc_env.cost import RESOURCES
from experiments.analysis import markdown, stats

ABOUT = {  # by how the names of their records begin
    "families": "Ways of compressing",
    "stages": "Stages against one shot, with the same evaluations and epochs",
    "distill": "Fine-tuning with and without the dense network as a teacher",
    "guaranteed": "Accuracy-guaranteed: the fewest parameters",
    "widths": "The width multiplier: thinner networks from scratch, and pruned ones, fine-tuned alike",
}
COSTS = {"bytes": "bytes of the coded file", "macs_share": "share of the MACs", "ms": "ms for 64 images"}
MARGIN = 0.001  # of accuracy, that a guarantee may cost

Records = Mapping[str, Mapping[str, Any]]


def tables(records: Records) -> str:
    """A table for each comparison, under its name; accuracies are in percent, on the test split."""
    parts = []
    for (about, subject), found in _compared(records).items():
        parts += [f"**{ABOUT[about]}: {subject}**", table(found)]
        if about == "guaranteed":
            parts.append(guaranteed(found))
    return "\n\n".join(parts)


def table(found: Records) -> str:
    """A row for each record, policy and target; the dense network of the first record first.

    Its costs are the whole of all rows, but for milliseconds: those are compared with the dense network's
    of the same record. Several seeds are a mean with its 95 % bootstrap interval.
    """
    head = ["", "policy", "target", "runs", "MACs", "params", "bytes", "ms / dense", "before fine-tuning"]
    head += ["fine-tuned", "fine-tuned, selection"]
    body = []
    dense = next(iter(found.values()))["results"]
    costs = dense["dense_costs"]
    whole = ["100.0 %", "100.0 %", f"{costs['bytes']:,}", "1.00"]
    top1 = [f"{100 * dense['dense'][split]:.2f}" for split in ("test", "selection")]
    body.append(["dense", "", "", "", *whole, top1[0], "", top1[1]])
    for label, record in found.items():
        for (policy, target), rows in _searches(record).items():
            shares = [f"{100 * _share(record, rows, dense, resource):.1f} %" for resource in RESOURCES]
            body.append(
                [label, f"`{policy}`", f"{100 * target:g} %", f"{len(rows)}", *shares]
                + [f"{np.mean([row['bytes'] for row in rows]):,.0f}"]
                + [f"{np.mean([row['ms'] for row in rows]) / _dense_ms(record, dense):.2f}"]
                + [_cell(rows, stage, split) for stage, split in ACCURACIES]
            )
    return markdown.table(head, body)


def _share(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], dense: Mapping[str, Any], resource: str
) -> float:
    """The mean cost of networks as a fraction of the first record's dense one."""
    own = record["results"]["dense_costs"].get(resource, 1)
    whole = dense["dense_costs"].get(resource, own)
    return float(own / whole * np.mean([row[f"{resource}_share"] for row in rows]))


def _dense_ms(record: Mapping[str, Any], dense: Mapping[str, Any]) -> float:
    """Milliseconds of the first record's dense network, if it can be in this record's own run."""
    own, whole = record["results"]["dense_costs"], dense["dense_costs"]
    return float((own if own["bytes"] == whole["bytes"] else whole)["ms"])


ACCURACIES = (("before", "test"), ("after", "test"), ("after", "selection"))


def guaranteed(found: Records) -> str:
    """Names the search with the fewest parameters that keeps the dense network's selection accuracy.

    As a mean over seeds it may lie `MARGIN` below.
    """
    dense = next(iter(found.values()))["results"]["dense"]
    reached = [
        (float(np.mean([row["params_share"] for row in rows])), label, policy, target, rows)
        for label, record in found.items()
        for (policy, target), rows in _searches(record).items()
        if np.mean([row["after"]["selection"] for row in rows]) >= dense["selection"] - MARGIN
    ]
    if not reached:
        return f"None of them is within {100 * MARGIN:g} point of the dense network on the selection split."
    share, label, policy, target, rows = min(reached, key=lambda one: one[0])
    test = 100 * np.mean([row["after"]["test"] - dense["test"] for row in rows])
    return (
        f"Within {100 * MARGIN:g} point of the dense network on the selection split with the fewest "
        f"parameters: `{policy}` ({label}, target {100 * target:g} %), {100 * share:.1f} % of them, "
        f"{test:+.2f} point on the test split."
    )


def plots(records: Records, folder: Path) -> list[Path]:
    """Draw a figure for each network with compared ways of compressing."""
    return [
        plot(found, folder / f"{subject}.png")
        for (about, subject), found in _compared(records).items()
        if about == "families"
    ]


def plot(found: Records, path: Path) -> Path:
    """Draw a PNG: test accuracy against bytes, MACs and milliseconds, before and after fine-tuning.

    Args:
        found: records of one network, by what is special in each.
        path: of the figure.
    """
    figure = Figure(figsize=(11, 4), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(COSTS), sharey=True)
    for axis, (key, name) in zip(axes, COSTS.items(), strict=True):
        for at, (label, record) in enumerate(found.items()):
            _draw(axis, record, key, color=f"C{at}", label=label)
        dense = next(iter(found.values()))["results"]
        axis.axhline(100 * dense["dense"]["test"], color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel=name, xscale="log" if key == "bytes" else "linear")
        if key == "bytes":
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("test accuracy, %")
    axes[0].set_title("solid: fine-tuned, dashed: before", fontsize=9, loc="left")
    lines = {line.get_label(): line for line in axes[0].lines if not str(line.get_label()).startswith("_")}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=max(1, len(lines)))
    figure.savefig(path)
    return path


def _draw(axis: Any, record: Mapping[str, Any], key: str, *, color: str, label: str) -> None:
    """The uniform policy as a line, other policies as stars."""
    for stage, style in (("after", "-"), ("before", "--")):
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (policy, _), rows in _searches(record).items():
            cost, top1 = (np.mean([f(row) for row in rows]) for f in (_of(key), _of(stage)))
            points[policy].append((float(cost), 100 * float(top1)))
        for policy, found in points.items():
            x, y = zip(*sorted(found), strict=True)
            if policy == "uniform":
                axis.plot(
                    x, y, style, color=color, marker="o", markersize=3, linewidth=1.2,
                    label=label if stage == "after" else f"_{label}",
                )  # fmt: skip
            else:
                face = color if stage == "after" else "none"
                axis.plot(x, y, "*", color=color, markerfacecolor=face, label=f"_{label} {policy} {stage}")


def _of(key: str) -> Any:
    return lambda row: row[key]["test"] if key in ("before", "after") else row[key]


def _compared(records: Records) -> dict[tuple[str, str], Records]:
    """The records of each comparison and network."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for name, record in records.items():
        about, network, data, *label = name.split("-", 3)
        stopped = ", stopped early" if record.get("stopped") else ""
        found[about, f"{network}-{data}"]["-".join(label) + stopped] = record
    return dict(found)


def _searches(record: Mapping[str, Any]) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for row in record["rows"]:
        found[row["policy"], row["target"]].append(row)
    return dict(sorted(found.items(), key=lambda item: (-item[0][1], item[0][0])))


def _cell(rows: Sequence[Mapping[str, Any]], stage: str, split: str) -> str:
    return stats.cell([100 * row[stage][split] for row in rows])
