"""The tables of the benchmark's page, from its records."""

from collections.abc import Mapping
from typing import Any

from experiments.analysis import markdown

NAMES = {
    "reference": "released procedure",
    "ours": "here",
    "bare": "bare forward pass",
}
PHASES = ("choose", "solve", "cut", "forward", "episode")


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: seconds by phase and their ratios; empty without records.

    Args:
        records: by the name of their network.
    """
    return f"{_seconds(records)}\n\n{_ratios(records)}" if records else ""


def _seconds(records: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, record in records.items():
        results = record["results"]
        timed = {side: called for side, called in NAMES.items() if side in results["median_seconds"]}
        for at, (side, called) in enumerate(timed.items()):
            taken = results["median_seconds"][side]
            cells = [f"{taken[phase]:.3f}" if phase in taken else "" for phase in PHASES]
            rows.append(["" if at else _called(name, record), called, *cells])
    return markdown.table(["network", "seconds of", *PHASES], rows)


def _ratios(records: Mapping[str, Mapping[str, Any]]) -> str:
    head = [
        "network", "weights", "plans x repeats", "episode / bare pass", "rewards apart, points",
        "times faster",
    ]  # fmt: skip
    rows = []
    for name, record in records.items():
        results, config = record["results"], record["config"]
        rows.append(
            [
                _called(name, record),
                results["weights"].partition(", sha256")[0],
                f"{config['plans']} x {config['repeats']}",
                _range(results["over_bare"], 2),
                f"at most {results['rewards']['largest_points']:.2f}",
                _range(results["faster"], 1),
            ]
        )
    return markdown.table(head, rows)


def _called(name: str, record: Mapping[str, Any]) -> str:
    """A network's name, with its GPU and with the number of CPU threads if above one."""
    gpu, threads = record["run"].get("gpu"), record["config"]["threads"]
    if not gpu:
        return f"`{name}`"
    network = name.partition(f"_{record['config']['device']}")[0]
    return f"`{network}`, {gpu}" + (f", {threads} threads" if threads > 1 else "")


def _range(ratio: Mapping[str, float], digits: int) -> str:
    low, high = ratio["lowest"], ratio["highest"]
    return f"{ratio['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
