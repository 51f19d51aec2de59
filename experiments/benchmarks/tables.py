"""The tables of this suite's page, made from its records alone."""

from collections.abc import Mapping
from typing import Any

from experiments.analysis import markdown

NAMES = {
    "reference": "released procedure",
    "ours": "here",
    "bare": "bare forward pass",
}
PHASES = ("choose", "solve", "cut", "forward", "episode")
PASSES, SCALING, MEMORY = "passes", "scaling", "memory"
SIZES = {"images": "reward images", "layers": "layers (plain networks)", "width": "width (`mobilenet_v1`)"}


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: seconds by phase, their ratios, and what an episode grows with; empty without records.

    Args:
        records: by name: those of networks, `PASSES`, `SCALING` and `MEMORY`.
    """
    others = {PASSES: _passes, SCALING: _scaling, MEMORY: _memory}
    networks = {name: record for name, record in records.items() if name not in others}
    parts = [_seconds(networks), _ratios(networks)] if networks else []
    parts += [write(records[name]) for name, write in others.items() if name in records]
    return "\n\n".join(parts)


def _seconds(records: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, record in records.items():
        results = record["results"]
        timed = {side: called for side, called in NAMES.items() if side in results["median_seconds"]}
        for at, (side, called) in enumerate(timed.items()):
            taken = results["median_seconds"][side]
            peak = results["peak_bytes"].get(side)
            cells = [f"{taken[phase]:.3f}" if phase in taken else "" for phase in PHASES]
            cells.append(f"{peak / 1e6:,.0f}" if peak else "")
            rows.append(["" if at else _called(name, record), called, *cells])
    return markdown.table(["network", "seconds of", *PHASES, "peak memory, MB"], rows)


def _ratios(records: Mapping[str, Mapping[str, Any]]) -> str:
    head = [
        "network", "weights", "plans x repeats", "episode / bare pass", "with DDPG's updates / bare pass",
        "rewards apart, points", "times faster",
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
                f"{results['search']['over_bare']:.2f}",
                f"at most {results['rewards']['largest_points']:.2f}",
                _range(results["faster"], 1),
            ]
        )
    return markdown.table(head, rows)


def _called(name: str, record: Mapping[str, Any]) -> str:
    """A network, with the GPU that it ran on, and the number of CPU threads if it is above one."""
    gpu, threads = record["run"].get("gpu"), record["config"]["threads"]
    if not gpu:
        return f"`{name}`"
    network = name.partition(f"_{record['config']['device']}")[0]
    return f"`{network}`, {gpu}" + (f", {threads} threads" if threads > 1 else "")


def _passes(record: Mapping[str, Any]) -> str:
    """Rates in thousands of millions a second."""
    head = [
        "network", "seconds of a bare pass", "GMAC/s", "GMAC/s of a matrix product",
        "times faster than the released procedure at that limit",
    ]  # fmt: skip
    rows = [
        [
            f"`{name}`",
            f"{found['seconds']['plain']:.3f}",
            *(f"{found['rate'][side] / 1e9:.1f}" for side in ("plain", "product")),
            _range(found["limit"], 1),
        ]
        for name, found in record["results"].items()
    ]
    return markdown.table(head, rows)


def _scaling(record: Mapping[str, Any]) -> str:
    head = ["against", "at", "seconds of an episode", "exponent", "exponent of the bare pass"]
    rows = [
        [
            SIZES.get(curve, curve),
            ", ".join(f"{point['x']:g}" for point in found["points"]),
            ", ".join(f"{point['ours_seconds']:.2f}" for point in found["points"]),
            *(f"{found['exponents'][side]:.2f}" for side in ("ours", "bare")),
        ]
        for curve, found in record["results"].items()
    ]
    return markdown.table(head, rows)


def _memory(record: Mapping[str, Any]) -> str:
    long, large = record["results"]["long"], record["results"]["large"]
    cells = [f"{bytes_ / 1e6:,.0f}" for bytes_ in (*long["bytes"], large["bytes"])]
    heads = [f"after {count:,} episodes of `plain20`" for count in long["episodes"]]
    network = f"`resnet50` at {large['size']}, {large['images']} + {large['images']} images"
    return markdown.table(["peak memory, MB", *heads, network], [["", *cells]])


def _range(ratio: Mapping[str, float], digits: int) -> str:
    low, high = ratio["lowest"], ratio["highest"]
    return f"{ratio['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
