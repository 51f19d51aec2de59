"""Tables from committed records; no number in them is typed by hand.

``python -m experiments.report`` writes them into the README, and the plots beside the records;
``python -m experiments.report keep RUN NAME`` takes a finished run into the committed records. The NAME of a
search begins with its agent's, as in ``ddpg-flops_30-0``; that of a comparison is its table's, and contenders
are added to those that are there.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from experiments.analysis import ablation, policies, regret
from experiments.analysis.joining import joined
from experiments.benchmarks import tables
from experiments.recording.record import RunRecord, row_a_line
from experiments.recording.tracking import METRICS

RESULTS = Path(__file__).resolve().parents[1] / "results"
README = Path(__file__).resolve().parents[2] / "README.md"
POLICIES, REGRET = "policies", "regret"  # folders in results/ and names of blocks in the README
BENCHMARKS, BUDGETS, ABLATION = "benchmarks", "budgets", "ablation"  # likewise
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
    print(policies.plot(list(read(RESULTS / POLICIES).values()), RESULTS / POLICIES / "curves.png"))
    print(f"{README.name}: written {', '.join(blocks())}")


def blocks() -> dict[str, str]:
    """Every block of the README that is made, by the name of its markers."""
    return {
        POLICIES: policies.table(list(read(RESULTS / POLICIES).values())),
        REGRET: tables_of(REGRET, regret.table),
        ABLATION: tables_of(ABLATION, ablation.table),
        BUDGETS: tables_of(BUDGETS, regret.budgets_table),
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


def tables_of(folder: str, table: Callable[[Mapping[str, Any]], str]) -> str:
    """A table for each comparison in a folder of the results, with what it was made of."""
    parts = []
    for name, record in read(RESULTS / folder).items():
        config = record["config"]
        parts.append(f"`{name}`, {config['seeds']} seeds, {config['episodes']} evaluations each:\n")
        parts.append(table(record) + "\n")
    return "\n".join(parts).rstrip("\n")


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
        path = RESULTS / _comparison(record) / f"{name}.json"
        if path.exists():
            kept = joined(json.loads(path.read_text()), kept)
    else:
        episodes = [row for row in record.rows if "reward" in row]
        kept = {key: record.content[key] for key in SEARCH}
        kept |= {
            "agent": name.partition("-")[0],
            "target": config["protocol"]["target"],
            "episodes": config["episodes"],
            "rewards": [round(row["reward"], 5) for row in episodes],
            "elapsed": [round(at, 2) for at in accumulate(row["episode_seconds"] for row in episodes)],
        }
        path = RESULTS / POLICIES / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(row_a_line(kept))
    return path


def _comparison(record: RunRecord) -> str:
    """Which folder a comparison is kept in."""
    if "experiment" in record.content["config"]:
        return ABLATION
    return BUDGETS if "searches" in record.content["results"] else REGRET


if __name__ == "__main__":
    main()
