"""Latency tables, and accuracy against measured time: searched by FLOPs, by time, and uniform.

Made from records of ``experiments.latency runs=[...]``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from amc_env.latency import LatencyTable
from experiments.analysis import markdown, stats
from experiments.analysis.charts import front
from experiments.analysis.run import Run
from experiments.analysis.runs import BATCH, RUNTIME
from experiments.recording.networks import DENSE, UNIFORM

FLOPS, TIME = "macs", "latency"
UNITS = {FLOPS: "FLOPs", TIME: "ms"}
HEAD = (
    "policy", "budget", "runs", "predicted, % of the dense time", "measured, %", "ms", "test {}, %",
    "above uniform", "above its FLOPs search",
)  # fmt: skip
NOTE = (
    "*Measured* is the median of five repeats, all networks in turn. The last two columns are differences in "
    "test {}, in points, at the same measured time: to the uniform policy, and to the same agent and "
    "seed with a budget of FLOPs, read off the line through its plans and the dense network."
)

Row = Mapping[str, Any]


def fits(tables: Mapping[str, LatencyTable]) -> str:
    """A row a latency table in Markdown: its network, and how well it predicts whole networks."""
    head = [
        "table", "runtime", "batch, threads", "processor", "dense ms", "plans", "Spearman", "median error, %",
        "measured in, s",
    ]  # fmt: skip
    body = []
    for name, made in tables.items():
        had, fit = made.conditions, made.fit
        dense = int(made.prices()([each[-1] for each in made.counts])) / 1e6
        checked = sum(not plan["fitted"] for plan in fit.plans)
        body.append([
            f"`{name}`", f"{had.runtime} {had.version}", f"{had.batch}, {had.threads}", had.processor,
            f"{dense:.3f}", str(checked), f"{fit.spearman:.3f}", f"{100 * fit.median_error:.1f}",
            f"{made.seconds:.0f}",
        ])  # fmt: skip
    return markdown.table(head, body)


def raced(found: Sequence[Run], races: Mapping[str, Mapping[str, Any]]) -> list[Run]:
    """Runs with the costs of networks as wide as theirs: the time depends on nothing else.

    Args:
        found: runs; what they know of their own stays.
        races: records, by the names of network and data, as in ``mobilenet_v1-cifar10``.
    """
    known = dict[tuple[str, tuple[int, ...]], dict[str, float]]()
    for name, race in races.items():
        rows = [row for row in race["rows"] if "ms" in row]
        dense = [row["ms"] for row in rows if row["policy"] == DENSE][:1]
        for row in rows if dense else ():
            times = {"ms": row["ms"], "dense_ms": dense[0]}
            costs = {f"{key} {side}": ms for key, each in times.items() for side, ms in each.items()}
            own = {"bytes": row["bytes"], "ms": row["ms"].get(f"{RUNTIME} {BATCH}")} | costs
            known[name, tuple(row["counts"])] = {key: each for key, each in own.items() if each is not None}
    return [
        replace(run, costs={**known.get((f"{run.model}-{run.data}", _counts(run)), {}), **run.costs})
        for run in found
    ]


def _counts(run: Run) -> tuple[int, ...]:
    return tuple(one.stay for one in run.plan)


def curve(row: Row) -> str:
    """The curve of a network: an agent has one for each resource, the uniform policy a single one."""
    if row["policy"] in (DENSE, UNIFORM):
        return str(row["policy"])
    return f"{row['policy']} by {UNITS[row['resource']]}"


def at_time(plans: Sequence[Row], ms: float) -> float:
    """The accuracy in [0, 1] of a policy's best plans at a time.

    Interpolated linearly between the Pareto-optimal plans.

    Args:
        plans: of one policy and seed, and the dense network; ``measured_ms`` and ``test``.
        ms: the time.
    """
    times, tests = zip(*front((plan["measured_ms"], plan["test"]) for plan in plans), strict=True)
    return float(np.interp(ms, times, tests))


def table(rows: Sequence[Row]) -> str:
    """A row a policy and budget in Markdown; means over seeds with 95 % bootstrap intervals."""
    dense = next(row for row in rows if row["policy"] == DENSE)
    groups: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        if row["policy"] != DENSE:
            groups[row["policy"], row["resource"], row["target"]].append(row)
    body = [
        [DENSE, "", "", "100.0", "100.0", f"{dense['measured_ms']:.3f}", f"{100 * dense['test']:.2f}", "", ""]
    ]
    for (policy, resource, target), own in sorted(groups.items(), key=lambda item: _order(item[0])):
        slow = policy != UNIFORM
        body.append([
            f"`{policy}`", f"{100 * target:g} % {UNITS[resource]}", str(len(own)),
            stats.cell([100 * row["promised_ms"] / dense["promised_ms"] for row in own], ".1f"),
            stats.cell([100 * row["measured_ms"] / dense["measured_ms"] for row in own], ".1f"),
            stats.cell([row["measured_ms"] for row in own], ".3f"),
            stats.cell([100 * row["test"] for row in own]),
            _above(own, rows, UNIFORM) if slow else "",
            _above(own, rows, f"{policy} by {UNITS[FLOPS]}") if slow and resource == TIME else "",
        ])  # fmt: skip
    head = [name.format(dense["measure"]) for name in HEAD]
    return f"{markdown.table(head, body)}\n\n{NOTE.format(dense['measure'])}"


def above(own: Sequence[Row], rows: Sequence[Row], other: str) -> list[float]:
    """Points by which each network is above another curve at the same time.

    Args:
        own: the networks.
        rows: all networks.
        other: name of the curve; its plans with the network's seed count, or all if there are none.
    """
    dense = [row for row in rows if row["policy"] == DENSE][:1]
    plans = [row for row in rows if curve(row) == other]
    found = []
    for row in own if plans else ():
        seeded = [plan for plan in plans if plan["seed"] == row["seed"]] or plans
        found.append(100 * (row["test"] - at_time([*seeded, *dense], row["measured_ms"])))
    return found


def plot(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Draw the test split against milliseconds into a PNG file, a line through the means of each curve."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained", dpi=120)
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="ms for one image, onnxruntime, one thread", ylabel=f"test {rows[0]['measure']}, %")
    axis.grid(alpha=0.25)
    kinds = dict.fromkeys(sorted(map(curve, rows)))
    for at, name in enumerate(kinds):
        own = [row for row in rows if curve(row) == name]
        axis.scatter(
            [row["measured_ms"] for row in own], [100 * row["test"] for row in own], s=16, color=f"C{at}",
            label=name,
        )  # fmt: skip
        means = [
            np.mean(
                [(row["measured_ms"], 100 * row["test"]) for row in own if budget == _budget(row)], axis=0
            )
            for budget in dict.fromkeys(map(_budget, own))
        ]
        if len(means) > 1:
            axis.plot(*np.array(sorted(map(tuple, means))).T, color=f"C{at}", linewidth=1)
    axis.legend(fontsize=7)
    figure.savefig(path, metadata={"Software": None})
    return path


def _budget(row: Row) -> tuple[str, float]:
    return row["resource"], row["target"]


def _order(group: tuple[str, str, float]) -> tuple[bool, str, bool, float]:
    policy, resource, target = group
    return policy == UNIFORM, policy, resource != TIME, -target


def _above(own: Sequence[Row], rows: Sequence[Row], other: str) -> str:
    found = above(own, rows, other)
    return stats.cell(found, "+.2f") if found else ""
