"""Regret on the tabular benchmark, pooled over tables: from the records of `experiments.compare`.

Regret is the best accuracy within the budget minus the accuracy of the best plan found, in percentage points.
A task is a table and a target. An agent's mean is over tasks, and within a task over seeds. Intervals are of
95 % and hold for other networks: a resample draws tables, and then seeds for each task.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis import markdown, stats
from experiments.analysis.contests import span
from experiments.analysis.stats import Estimate

NEAR = 0.1  # points: as good as the best
OURS, ALONE = "ddpg_elites", "elites_alone"  # with networks, and the same without
BEST = "gp_errors"  # the main job's agent, which others are held against
COUNTS = (50, 100, 200, 400)  # evaluations
PLOTTED = ("random", "cmaes", "evopress", "additive", "ddpg_paper", "sb3_td3", OURS, "gp", BEST, "pretrained")

Floats = NDArray[np.float64]
Task = tuple[str, float]  # table, target
Runs = dict[Task, dict[int, Floats]]  # of an agent, by task and seed, the regret after each evaluation
Records = Mapping[str, Mapping[str, Any]]  # by table


def runs(records: Records) -> dict[str, Runs]:
    """The runs of each agent; a curve is constant after its last improvement."""
    found: dict[str, Runs] = {}
    for table, record in records.items():
        known = record["results"]["known_best"]
        for row in record["rows"]:
            regret = np.full(record["config"]["episodes"], np.nan)
            for evaluation, top1 in row["curve"]:  # a longer one is cut off
                regret[evaluation - 1 :] = 100 * (known[str(row["target"])] - top1)
            task = found.setdefault(row["contender"], {}).setdefault((table, row["target"]), {})
            task[row["seed"]] = np.maximum(regret, 0.0)
    return found


def table(records: Records, counts: Sequence[int] = COUNTS) -> str:
    """A row an agent, sorted from the largest regret at the last count."""
    every, lines = runs(records), []
    for name in sorted(every, key=lambda name: -pooled(after(every[name], counts[-1])).value):
        own = every[name]
        needed = np.array([evaluations(curve) for seeds in own.values() for curve in seeds.values()])
        median = float(np.median(needed))
        lines.append(
            [
                f"`{name}`", str(len({task[0] for task in own})), span([*map(len, own.values())]),
                *(cell(pooled(after(own, count))) for count in counts),
                f"{np.isfinite(needed).mean():.0%}", f"{median:.0f}" if np.isfinite(median) else "-",
            ]
        )  # fmt: skip
    head = [
        "agent",
        "tables",
        "seeds",
        *map(str, counts),
        f"runs within {NEAR} point",
        f"median evaluations to {NEAR} point",
    ]
    return markdown.table(head, lines)


def against(records: Records, ours: str, names: Sequence[str] = (), counts: Sequence[int] = COUNTS) -> str:
    """How much worse agents are than one of them, paired by task and seed: a row an agent."""
    every = runs(records)
    if ours not in every:
        return ""
    others = [name for name in (names or every) if name in every and name != ours]
    lines = []
    for name in sorted(others, key=lambda name: -_worse(every[name], every[ours], counts[-1]).value):
        lines.append([f"`{name}`", *(cell(_worse(every[name], every[ours], n), "+") for n in counts)])
    return markdown.table([f"worse than `{ours}` by, after", *map(str, counts)], lines)


def by_table(records: Records, count: int = 100) -> str:
    """The mean regret on each table after some evaluations: a row a table, a column an agent."""
    every = runs(records)
    names = sorted(every, key=lambda name: -pooled(after(every[name], count)).value)
    lines = []
    for table in records:
        cells = [f"`{table}`"]
        for name in names:
            values = [v.mean() for task, v in after(every[name], count).items() if task[0] == table]
            cells.append(f"{np.mean(values):.2f}" if values else "")
        lines.append(cells)
    return markdown.table([f"after {count}", *(f"`{name}`" for name in names)], lines)


def after(own: Runs, count: int) -> dict[Task, Floats]:
    """For each task, regrets ``(seeds,)`` after a number of evaluations."""
    return {task: np.array([curve[count - 1] for curve in seeds.values()]) for task, seeds in own.items()}


def differences(theirs: Runs, ours: Runs, count: int) -> dict[Task, Floats]:
    """Theirs minus ours for each task and common seed; the flat curve of a rule stands against every seed."""
    found = {}
    for task in theirs.keys() & ours.keys():
        a, b = theirs[task], ours[task]
        first = next(iter(a.values()))
        single = first if len(a) == 1 and np.ptp(first) == 0 else None
        shared = [seed for seed in sorted(b) if single is not None or seed in a]
        if shared:
            found[task] = np.array([a.get(seed, single)[count - 1] - b[seed][count - 1] for seed in shared])  # type: ignore[index]
    return dict(sorted(found.items()))


def pooled(values: Mapping[Task, Floats], resamples: int = stats.RESAMPLES) -> Estimate:
    """The mean over tasks of the mean over seeds; a resample draws tables, then seeds."""
    rng = np.random.default_rng(stats.SEED)
    tables: dict[str, list[Floats]] = {}
    for (table, _), own in sorted(values.items()):
        drawn = own[rng.integers(len(own), size=(resamples, len(own)))].mean(1)
        tables.setdefault(table, []).append(drawn)
    means = np.stack([np.mean(drawn, axis=0) for drawn in tables.values()], axis=1)  # (resamples, tables)
    chosen = rng.integers(len(tables), size=means.shape)
    low, high = stats.tails(np.take_along_axis(means, chosen, axis=1).mean(1))
    by_table = [
        np.mean([own.mean() for (name, _), own in values.items() if name == table]) for table in tables
    ]
    return Estimate(float(np.mean(by_table)), float(low), float(high))


def evaluations(curve: Floats, near: float = NEAR) -> float:
    """The first evaluation at which a run is near the best plan; infinity without one."""
    reached = curve <= near + 1e-9
    return float(reached.argmax()) + 1 if reached.any() else np.inf


def plot(records: Records, path: Path, names: Sequence[str] = PLOTTED, points: int = 30) -> Path:
    """Draw a PNG of the mean regret against evaluations, pooled over tables, with 95 % bands."""
    every = runs(records)
    last = max(record["config"]["episodes"] for record in records.values())
    at = np.unique(np.geomspace(1, last, points).round().astype(int))
    figure = Figure(figsize=(7.2, 4.2), layout="constrained", dpi=120)
    axis = figure.subplots()
    for color, name in enumerate(name for name in names if name in every):
        found = np.array([pooled(after(every[name], int(x)), resamples=300) for x in at])
        axis.plot(at, found[:, 0], color=f"C{color}", label=name, linewidth=2 if name == BEST else 1.2)
        axis.fill_between(at, found[:, 1], found[:, 2], color=f"C{color}", alpha=0.12, linewidth=0)
    axis.set(xscale="log", xlim=(1, last), xlabel="evaluations", ylabel="regret of the best so far, points")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    figure.savefig(path)
    return path


def _worse(theirs: Runs, ours: Runs, count: int) -> Estimate:
    return pooled(differences(theirs, ours, count))


def cell(estimate: Estimate, sign: str = "") -> str:
    """A value and its interval."""
    value, low, high = (round(part, 2) + 0.0 for part in estimate)  # no minus zero
    return f"{value:{sign}.2f} [{low:.2f}, {high:.2f}]"
