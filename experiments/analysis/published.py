"""The papers' tables beside ours: their numbers from ``published.yaml``, ours from runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.analysis.charts import Curve
from experiments.analysis.contests import commits, percent
from experiments.analysis.runs import Run
from experiments.analysis.stats import LEVEL

FILE = Path(__file__).parent / "published.yaml"
MEMORY = "memory"  # the status of a number that is not verified


class PublishedError(ValueError):
    """A table or a row that does not exist."""


def _test(stage: str) -> Callable[[Run], float | None]:
    return lambda run: getattr(run, stage).get("test")


def _share(cost: str) -> Callable[[Run], float | None]:
    return lambda run: run.costs.get(cost)


def _drop(run: Run) -> float | None:
    """Test accuracy of what is shipped minus the dense network's."""
    last = run.after or run.before
    return last["test"] - run.dense["test"] if "test" in last and "test" in run.dense else None


QUANTITIES: dict[str, tuple[str, Callable[[Run], float | None]]] = {  # fractions; printed in percent
    "before": ("test % before tuning", _test("before")),
    "after": ("test % after", _test("after")),
    "drop": ("points of top-1", _drop),
    "macs_share": ("FLOPs kept, %", _share("macs_share")),
    "params_share": ("parameters kept, %", _share("params_share")),
}


@dataclass(frozen=True)
class Table:
    """One table of a paper with ours beside it, ready to print."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def tables() -> dict[str, dict[str, Any]]:
    """What ``published.yaml`` says of each table."""
    found = OmegaConf.to_container(OmegaConf.load(FILE))
    assert isinstance(found, dict)
    for table in found["tables"].values():
        table["source"] = found["sources"][table["source"]]
    known: dict[str, dict[str, Any]] = found["tables"]
    return known


def spec(name: str) -> dict[str, Any]:
    """One table of `tables`.

    Raises:
        PublishedError: for one that does not exist.
    """
    known = tables()
    if name not in known:
        raise PublishedError(f"no table {name!r}; there are {', '.join(known)}")
    return known[name]


def of_row(runs: Sequence[Run], row: Mapping[str, Any]) -> list[Run]:
    """The finished runs of a row's experiment file; where there are none, those of the record it names."""
    own = [run for run in runs if run.experiment == row["row"] and run.status == "finished"]
    if own or "record" not in row:
        return own
    record = row["record"]
    start, agent = f"{record['name'].rpartition('/')[2]}-", (record["policy"], record["target"])
    return [run for run in runs if run.name.startswith(start) and (run.agent, run.target) == agent]


def beside(name: str, runs: Sequence[Run]) -> Table:
    """A table with a line a row: the paper's numbers, ours with 95 % intervals, and what ours cost."""
    asked = spec(name)
    found = [(row, of_row(runs, row)) for row in asked["rows"]]
    head = [
        "",
        *(f"{QUANTITIES[key][0]}, {whose}" for key in asked["columns"] for whose in ("paper", "ours")),
    ]
    head += ["seeds", "evaluations", "seconds", "commit"]
    lines, doubtful = [], False
    for row, own in found:
        cells = [row["name"]]
        for key in asked["columns"]:
            shown, unsure = _printed(row.get(key), asked["status"])
            doubtful |= unsure
            form = "+.2f" if key == "drop" else ".2f"
            cells += [shown, percent([QUANTITIES[key][1](run) for run in own], form)]
        lines.append([*cells, *_spent(own)])
    every = [run for _, own in found for run in own]
    notes = [f"The paper's numbers: {asked['source']}; {asked['status']}.", *asked["notes"]]
    notes += ["? from memory, not verified"] if doubtful else []
    notes += [f"Ours: means over seeds with {LEVEL:.0%} bootstrap intervals; an empty cell has not been run."]
    return Table(f"{asked['title']} ({differs(every)})", head, lines, notes)


def differs(runs: Sequence[Run]) -> str:
    """What a title says of our data and fine-tuning."""
    if not runs:
        return "ours has not been run"
    data = ", ".join(sorted({run.data for run in runs}))
    epochs = sorted({run.epochs for run in runs if run.epochs is not None})
    tuned = f"{' or '.join(map(str, epochs))} epochs of fine-tuning" if epochs else "no fine-tuning"
    return f"ours: {data}, {tuned}"


def keeps(name: str, runs: Sequence[Run]) -> list[Curve]:
    """Keep ratios by decision: a line a row of the paper's, and one of ours where there are plans."""
    found = []
    for row in spec(name)["rows"]:
        if "keep" in row:
            found.append(Curve(f"{row['name']}, paper", list(range(len(row["keep"]))), row["keep"]))
        plans = np.array([[one.ratio for one in run.plan] for run in of_row(runs, row) if run.plan])
        if plans.size:
            x = list(range(plans.shape[1]))
            low, high = plans.min(0).tolist(), plans.max(0).tolist()
            found.append(Curve(f"{row['name']}, ours", x, plans.mean(0).tolist(), low, high))
    return found


def _printed(value: Any, status: str) -> tuple[str, bool]:
    """A published number, and whether it is only remembered; empty where the paper prints none."""
    if value is None:
        return "", False
    if isinstance(value, dict):
        value, status = value["value"], value["status"]
    return (f"{value:g}?", True) if status == MEMORY else (f"{value:g}", False)


def _spent(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["0", "", "", ""]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    low, high = min(run.evaluations for run in runs), max(run.evaluations for run in runs)
    mean = f"{np.mean(seconds):.0f}" if seconds else ""
    return [str(len(runs)), str(low) if low == high else f"{low} to {high}", mean, commits(runs)]
