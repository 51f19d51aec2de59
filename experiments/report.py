"""Tables from committed records; no number in them is typed by hand.

``python -m experiments.report`` writes them into the README, and the plots beside the records;
``python -m experiments.report keep RUN NAME`` takes a finished run into the committed records. The NAME of a
search begins with its agent's, as in ``ddpg-flops_30-0``; that of a comparison is its table's.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import regret
from experiments.benchmarks import tables
from experiments.record import RunRecord, row_a_line
from experiments.tracking import METRICS

RESULTS = Path(__file__).resolve().parent / "results"
README = Path(__file__).resolve().parents[1] / "README.md"
POLICIES, REGRET = "policies", "regret"  # folders in results/ and names of blocks in the README
BENCHMARKS = "benchmarks"  # likewise
SEARCH = ("format", "config", "seeds", "versions", "commit", "best", "results", "seconds")
COMPARISON = ("format", "config", "seeds", "versions", "commit", "results", "seconds")


class ReportError(ValueError):
    """A record or a README that a table cannot be made of."""


def main() -> None:
    """Write every table into its block of the README, or keep a run's record."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    verbs = parser.add_subparsers(dest="verb")
    taken = verbs.add_parser("keep", help="take a finished run into the committed records")
    taken.add_argument("run", type=Path)
    taken.add_argument("name")
    asked = parser.parse_args()
    if asked.verb == "keep":
        print(keep(asked.run, asked.name))
        return
    text = README.read_text()
    for name, block in blocks().items():
        text = place(text, name, block)
    README.write_text(text)
    for name, record in read(RESULTS / REGRET).items():
        print(regret.plot(record, RESULTS / REGRET / f"{name}.png"))
    print(f"{README.name}: written {', '.join(blocks())}")


def blocks() -> dict[str, str]:
    """Every block of the README that is made, by the name of its markers."""
    return {
        POLICIES: policies(list(read(RESULTS / POLICIES).values())),
        REGRET: regret_tables(read(RESULTS / REGRET)),
        BENCHMARKS: tables.table(read(RESULTS / BENCHMARKS)),
        "metrics": metrics(),
    }


def metrics() -> str:
    """The table of what is logged."""
    return "\n".join(
        ["| metric | meaning |", "|-|-|", *(f"| `{name}` | {text} |" for name, text in METRICS.items())]
    )


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def regret_tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each comparison on the tabular benchmark, with what it was made of."""
    parts = []
    for name, record in records.items():
        config = record["config"]
        parts.append(f"`{name}`, {config['seeds']} seeds, {config['episodes']} evaluations each:\n")
        parts.append(regret.table(record) + "\n")
    return "\n".join(parts).rstrip("\n")


def policies(records: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy on selection without fine-tuning, of each policy at each target: mean, and spread over seeds.

    A deterministic policy has one record; of a searching one, each seed has one, measured on the plan that
    was confirmed among its best.
    """
    cells: dict[tuple[str, float], list[float]] = {}
    evaluations: dict[str, int] = {}
    for record in records:
        name, target = record["agent"], record["target"]
        cells.setdefault((name, target), []).append(100 * record["best"]["selection"]["top1"])
        evaluations[name] = record["episodes"]
    targets = sorted({target for _, target in cells}, reverse=True)
    lines = [
        "| policy | evaluations | seeds | "
        + " | ".join(f"{100 * target:g} % of the MACs" for target in targets)
        + " |",
        "|-|-|-|" + "-|" * len(targets),
    ]
    for name in dict.fromkeys(name for name, _ in sorted(cells, key=lambda key: statistics.mean(cells[key]))):
        columns = [cells.get((name, target), []) for target in targets]
        seeds = max(len(column) for column in columns)
        lines.append(f"| {name} | {evaluations[name]} | {seeds} | " + " | ".join(map(_cell, columns)) + " |")
    return "\n".join(lines)


def place(text: str, name: str, block: str) -> str:
    """The text with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced.

    Raises:
        ReportError: when the markers are not there exactly once.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ReportError(f"the README needs {start} and {end}, once each")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{block}\n{end}{after}"


def keep(folder: Path, name: str) -> Path:
    """Copy what the tables need of a finished record into the committed results.

    Raises:
        ReportError: for a run that has not finished.
    """
    record = RunRecord.read(folder)
    if (status := record.content["status"]) != "finished":
        raise ReportError(f"{folder} is {status}: only a finished run is reported")
    config = record.content["config"]
    if "contenders" in config:
        kept = {key: record.content[key] for key in COMPARISON} | {"rows": record.rows}
        path = RESULTS / REGRET / f"{name}.json"
    else:
        kept = {key: record.content[key] for key in SEARCH}
        kept |= {
            "agent": name.partition("-")[0],
            "target": config["protocol"]["target"],
            "episodes": config["episodes"],
            "rewards": [round(row["reward"], 5) for row in record.rows if "reward" in row],
        }
        path = RESULTS / POLICIES / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(row_a_line(kept))
    return path


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({min(values):.2f} to {max(values):.2f}, sd {statistics.stdev(values):.2f})"


if __name__ == "__main__":
    main()
