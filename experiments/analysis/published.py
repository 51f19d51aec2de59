"""The papers' tables beside ours: their numbers from ``published.yaml``, ours from runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from experiments.analysis import markdown
from experiments.analysis.charts import Curve
from experiments.analysis.contests import commits, percent, span
from experiments.analysis.figures import OURS, PAPER
from experiments.analysis.run import Run
from experiments.analysis.stats import LEVEL

FILE = Path(__file__).parent / "published.yaml"
WHOSE = ("paper", "ours")
DENSITY = "density_"  # before a part of the network, in the name of a column
STATUS = {  # how a number is known, see ``published.yaml``
    "image": "read from a picture of its page",
    "quoted": "quoted by a public note, slide or repository of the authors",
    "digitised": "read off a plotted curve, within 0.01",
    "text": "from its text",
}


class PublishedError(ValueError):
    """An unknown table or row."""


def _test(stage: str) -> Callable[[Run], float | None]:
    return lambda run: getattr(run, stage).get("test")


def _cost(cost: str) -> Callable[[Run], float | None]:
    return lambda run: run.costs.get(cost)


def _shipped(run: Run) -> float | None:
    """Test accuracy after fine-tuning, else before it."""
    return (run.after or run.before).get("test")


def _drop(run: Run) -> float | None:
    """Test accuracy of the delivered network minus the dense network's."""
    last, dense = _shipped(run), run.dense.get("test")
    return None if last is None or dense is None else last - dense


def _speedup(timing: str) -> Callable[[Run], float | None]:
    """Times faster than the dense network in the same run; ``onnx 64`` names runtime and batch."""

    def found(run: Run) -> float | None:
        dense, ours = (run.costs.get(f"{name} {timing}") for name in ("dense_ms", "ms"))
        return None if dense is None or ours is None else dense / ours

    return found


def _rate(run: Run) -> float | None:
    return run.costs["dense_bytes"] / run.costs["bytes"] if "dense_bytes" in run.costs else None


def _density(part: str) -> Callable[[Run], float | None]:
    """The fraction of weights kept in the layers whose names start with this."""

    def found(run: Run) -> float | None:
        own = [one for one in run.plan if f"{one.layer}.".startswith(f"{part}.") and one.weights]
        weights = sum(one.weights for one in own)
        return sum(one.ratio * one.weights for one in own) / weights if weights else None

    return found


class Quantity(NamedTuple):
    """A column: its name, how to read it from a run, and its format."""

    name: str
    value: Callable[[Run], float | None]
    factor: float = 100
    form: str = ".2f"


QUANTITIES = {
    "dense": Quantity("dense, test %", _test("dense")),
    "before": Quantity("test % before fine-tuning", _test("before")),
    "after": Quantity("test % after", _test("after")),
    "shipped": Quantity("shipped, test %", _shipped),
    "drop": Quantity("points", _drop, form="+.2f"),
    "macs_share": Quantity("FLOPs kept, %", _cost("macs_share")),
    "params_share": Quantity("parameters kept, %", _cost("params_share")),
    "speedup": Quantity("times faster", _speedup("onnx 1"), 1),
    "speedup_onnx_64": Quantity("times faster, batch of 64", _speedup("onnx 64"), 1),
    "speedup_torch_1": Quantity("times faster in PyTorch", _speedup("torch 1"), 1),
    "speedup_torch_64": Quantity("times faster in PyTorch, batch of 64", _speedup("torch 64"), 1),
    "megabytes": Quantity("MB", _cost("bytes"), 1e-6),
    "kilobytes": Quantity("kB", _cost("bytes"), 1e-3, ".1f"),
    "rate": Quantity("times smaller", _rate, 1, ".1f"),
    f"{DENSITY}stem": Quantity("first layer, %", _density("stem"), form=".1f"),
    **{f"{DENSITY}{i}": Quantity(f"stage {i + 1}, %", _density(f"stages.{i}"), form=".1f") for i in range(4)},
    f"{DENSITY}classifier": Quantity("classifier, %", _density("classifier"), form=".1f"),
}


@dataclass(frozen=True)
class Table:
    """One table of a paper with ours beside it, ready to print."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


@cache
def tables() -> Mapping[str, Mapping[str, Any]]:
    """The tables of ``published.yaml``, by name."""
    found = OmegaConf.to_container(OmegaConf.load(FILE))
    assert isinstance(found, dict)
    for table in found["tables"].values():
        table["source"] = found["sources"][table["source"]]
    known: dict[str, dict[str, Any]] = found["tables"]
    return known


def spec(name: str) -> Mapping[str, Any]:
    """One table of `tables`.

    Raises:
        PublishedError: for one that does not exist.
    """
    known = tables()
    if name not in known:
        raise PublishedError(f"no table {name!r}; there are {', '.join(known)}")
    return known[name]


def of_row(runs: Sequence[Run], row: Mapping[str, Any]) -> list[Run]:
    """The finished runs of a row's experiment file, else those in the record that the row names."""
    own = [run for run in runs if run.experiment and run.experiment == row.get("row")]
    own = [run for run in own if run.status == "finished"]
    if own or "record" not in row:
        return own
    record = row["record"]
    name, policy, target = record["name"].partition("/")[2], record.get("policy"), record.get("target")
    return [
        run
        for run in runs
        if run.name in (f"{name}-{policy}-{100 * run.target:g}-{run.seed}", f"{name}-{run.seed}")
        and target in (None, run.target)
    ]


def beside(name: str, runs: Sequence[Run]) -> Table:
    """A table: the paper's numbers, ours with 95 % intervals, and the cost of our runs.

    Columns that the paper does not print are left out.
    """
    asked = spec(name)
    found = [(row, of_row(runs, row)) for row in asked["rows"]]
    columns = [
        (key, whose)
        for key in asked["columns"]
        for whose in WHOSE
        if whose == "ours" or any(key in row for row in asked["rows"])
    ]
    head = ["", *(f"{QUANTITIES[key].name}, {whose}" for key, whose in columns)]
    head += ["seeds", "evaluations", "seconds", "commit"]
    lines = []
    for row, own in found:
        cells = [row["name"]]
        for key, whose in columns:
            of = QUANTITIES[key]
            ours = percent([of.value(run) for run in own], of.form, of.factor)
            cells.append(_printed(row.get(key)) if whose == "paper" else ours)
        lines.append([*cells, *(_spent(own) if "row" in row else [""] * 4)])
    every = [run for _, own in found for run in own]
    notes = [f"The paper's numbers: {asked['source']}; {STATUS[asked['status']]}.", *asked["notes"]]
    if every and all(run.folder is None for run in every):
        notes += asked.get("recorded", [])
    notes += [
        f"Ours: means over seeds with {LEVEL:.0%} bootstrap intervals; an empty cell has not been run. "
        "Seconds are those of the search, of the whole run where nothing is searched."
    ]
    return Table(f"{asked['title']} ({differs(every)})", head, lines, notes)


def differs(runs: Sequence[Run]) -> str:
    """Our data and fine-tuning, in words for a title."""
    if not runs:
        return "ours has not been run"
    data = ", ".join(sorted({"images of its own" if run.data == "import" else run.data for run in runs}))
    epochs = sorted({run.epochs for run in runs if run.epochs})
    count = " or ".join(map(str, epochs))
    tuned = f"{count} epoch{'s' * (count != '1')} of fine-tuning" if epochs else "no fine-tuning"
    return f"ours: {data}, {tuned}"


def keeps(name: str, runs: Sequence[Run]) -> list[Curve]:
    """Keep ratios by decision: the paper's line of each row, and ours if there are plans."""
    found = []
    for row in spec(name)["rows"]:
        if "keep" in row:
            found.append(Curve(f"{row['name']}{PAPER}", list(range(len(row["keep"]))), row["keep"]))
        own = [run.plan for run in of_row(runs, row) if run.plan]
        plans = np.array([[one.ratio for one in plan] for plan in own if len(plan) == len(own[0])])
        if plans.size:
            x = list(range(plans.shape[1]))
            low, high = plans.min(0).tolist(), plans.max(0).tolist()
            found.append(Curve(f"{row['name']}{OURS}", x, plans.mean(0).tolist(), low, high))
    return found


def densities(name: str, runs: Sequence[Run], policy: str) -> list[Curve]:
    """Percent of the weights kept by part of the network: the paper's lines, and ours of one policy.

    Parts are counted as their columns: the first layer 0, then the stages, last the classifier.
    """
    asked = spec(name)
    parts = [key for key in asked["columns"] if key.startswith(DENSITY)]
    found = []
    for row in asked["rows"]:
        theirs = {at: row[key] for at, key in enumerate(parts) if key in row}
        if theirs:
            found.append(Curve(f"{row['name']}{PAPER}", list(theirs), list(theirs.values())))
        if row.get("record", {}).get("policy") != policy:
            continue
        every = {
            at: [QUANTITIES[key].value(run) for run in of_row(runs, row)] for at, key in enumerate(parts)
        }
        known = {at: [100 * one for one in own if one is not None] for at, own in every.items()}
        known = {at: own for at, own in known.items() if own}
        if known:
            low, mean, high = ([float(f(own)) for own in known.values()] for f in (min, np.mean, max))
            found.append(Curve(f"{row['name']}{OURS}", list(known), mean, low, high))
    return found


def _printed(value: float | None) -> str:
    """A published number; empty if the paper prints none."""
    return "" if value is None else f"{value:g}"


def _spent(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["0", "", "", ""]
    evaluations = span([run.evaluations for run in runs])
    seconds = [round(run.seconds) for run in runs if run.seconds is not None]
    seeds = len({run.seed for run in runs})
    return [str(seeds), evaluations, span(seconds) if seconds else "", commits(runs)]


LAYER = ("kept, %", "bits of a weight, coded", "bits of a step, coded", "size left, %")


def layers(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The layers of a file of `experiments.deep_compress` beside the paper's, in Markdown."""
    lines = []
    for one in results["layers"]:
        name, _, kind = one["name"].rpartition(".")
        theirs = row.get("layers", {}).get(name, [""] * len(LAYER)) if kind == "weight" else [""] * len(LAYER)
        weight, step = one["coded_bits"]
        ours = (100 * one["kept"] / one["numbers"], weight, step, 100 * one["bytes"] / one["dense_bytes"])
        pairs = zip(theirs, ours, strict=True)
        lines.append([one["name"], *(cell for a, b in pairs for cell in (f"{a}", f"{b:.1f}"))])
    return markdown.table(["layer", *(f"{name}, {whose}" for name in LAYER for whose in WHOSE)], lines)
