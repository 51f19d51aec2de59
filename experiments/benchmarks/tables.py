"""The tables of the README, from records of this suite alone."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks import RANDOM

NAMES = {
    "reference": "released procedure",
    "ours": "here",
    "bare": "bare forward pass",
    "bfloat16": "here, bfloat16",
}
PHASES = ("choose", "solve", "cut", "forward", "episode")
PASSES, SCALING, WORKERS, MEMORY = "passes", "scaling", "workers", "memory"
STOPPING, MORE, PREFIX = "stopping", "stopping_more", "prefix"
AGENTS = ("random", "cmaes")  # that workers are timed with, and the sides
WORKING = {"one_worker": "one worker", "threads": "one process, two threads", "workers": "two workers"}
RATES = ("plain", "fused", "product")
SIZES = {"images": "reward images", "layers": "layers (plain networks)", "width": "width (`mobilenet_v1`)"}


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: seconds by phase, their ratios, and what an episode grows with; empty without records.

    Args:
        records: by name: those of networks, `PASSES`, `SCALING`, `WORKERS`, `MEMORY`, `STOPPING`,
            `MORE` and `PREFIX`.
    """
    others = {
        PASSES: _passes,
        SCALING: _scaling,
        WORKERS: _workers,
        MEMORY: _memory,
        STOPPING: _stopping,
        MORE: _stopping,
        PREFIX: _prefix,
    }
    networks = {name: record for name, record in records.items() if name not in others}
    parts = [_seconds(networks), _ratios(networks)] if networks else []
    parts += [write(records[name]) for name, write in others.items() if name in records]
    return "\n\n".join(parts)


def _seconds(records: Mapping[str, Mapping[str, Any]]) -> str:
    lines = _head("network", "seconds of", *PHASES, "peak memory, MB")
    for name, record in records.items():
        results = record["results"]
        timed = {side: called for side, called in NAMES.items() if side in results["median_seconds"]}
        for at, (side, called) in enumerate(timed.items()):
            taken = results["median_seconds"][side]
            peak = results["peak_bytes"].get(side)
            cells = [f"{taken[phase]:.3f}" if phase in taken else "" for phase in PHASES]
            cells.append(f"{peak / 1e6:,.0f}" if peak else "")
            lines.append(_row("" if at else _called(name, record), called, *cells))
    return "\n".join(lines)


def _ratios(records: Mapping[str, Mapping[str, Any]]) -> str:
    lines = _head(
        "network", "weights", "plans x repeats", "episode / bare pass", "with DDPG's updates / bare pass",
        "rewards apart, points", "times faster", "rewards apart, bfloat16", "times faster, bfloat16",
        "times faster in a search that stops", "the same, bfloat16",
    )  # fmt: skip
    for name, record in records.items():
        results, config = record["results"], record["config"]
        lines.append(
            _row(
                _called(name, record),
                results["weights"].partition(", sha256")[0],
                f"{config['plans']} x {config['repeats']}",
                _range(results["over_bare"], 2),
                f"{results['search']['over_bare']:.2f}",
                f"at most {results['rewards']['largest_points']:.2f}",
                _range(results["faster"], 1),
                *_rounded(results),
                *(_stopped(results, side) for side in ("ours", "bfloat16")),
            )
        )
    return "\n".join(lines)


def _called(name: str, record: Mapping[str, Any]) -> str:
    """A network, with the GPU that it was run on, and the processor's threads where they were several."""
    gpu, threads = record["run"].get("gpu"), record["config"]["threads"]
    if not gpu:
        return f"`{name}`"
    network = name.partition(f"_{record['config']['device']}")[0]
    return f"`{network}`, {gpu}" + (f", {threads} threads" if threads > 1 else "")


def _rounded(results: Mapping[str, Any]) -> tuple[str, str]:
    """What bfloat16 changes of rewards and of seconds; nothing where a processor does not multiply in it."""
    if "faster_bfloat16" not in results:
        return "", ""
    apart = f"at most {results['rewards']['largest_points_bfloat16']:.2f}"
    return apart, _range(results["faster_bfloat16"], 1)


def _stopped(results: Mapping[str, Any], side: str) -> str:
    """Nothing for random weights, whose plans are all alike: none is stopped."""
    found = results.get("stopping", {})
    return f"{found[side]['faster']:.1f}" if side in found and results["weights"] != RANDOM else ""


def _passes(record: Mapping[str, Any]) -> str:
    """Rates in thousands of millions a second."""
    lines = _head(
        "network", "seconds of a bare pass", "fused", "times faster", "GMAC/s", "GMAC/s, fused",
        "of a matrix product", "times faster than the released procedure at that limit",
    )  # fmt: skip
    for name, found in record["results"].items():
        plain, fused = (found["seconds"].get(side) for side in ("plain", "fused"))
        rates = [f"{found['rate'][side] / 1e9:.1f}" if side in found["rate"] else "" for side in RATES]
        lines.append(
            _row(
                f"`{name}`",
                f"{plain:.3f}",
                f"{fused:.3f}" if fused else "",
                _range(found["faster"], 2) if fused else "",
                *rates,
                _range(found["limit"], 1),
            )
        )
    return "\n".join(lines)


def _scaling(record: Mapping[str, Any]) -> str:
    lines = _head("against", "at", "seconds of an episode", "exponent", "exponent of the bare pass")
    for curve, found in record["results"].items():
        points, exponents = found["points"], found["exponents"]
        lines.append(
            _row(
                SIZES.get(curve, curve),
                ", ".join(f"{point['x']:g}" for point in points),
                ", ".join(f"{point['ours_seconds']:.2f}" for point in points),
                f"{exponents['ours']:.2f}",
                f"{exponents['bare']:.2f}",
            )
        )
    return "\n".join(lines)


def _workers(record: Mapping[str, Any]) -> str:
    ratios = "two workers / one", "two workers / two threads"
    lines = _head("episodes a second of", *WORKING.values(), *ratios)
    for agent in AGENTS:
        found = record["results"][agent]
        speeds = [f"{found['episodes_per_second'][side]:.2f}" for side in WORKING]
        ratios = _range(found["over_one_worker"], 2), _range(found["over_threads"], 2)
        lines.append(_row(f"`{agent}`", *speeds, *ratios))
    return "\n".join(lines)


def _memory(record: Mapping[str, Any]) -> str:
    long, large = record["results"]["long"], record["results"]["large"]
    cells = [f"{bytes_ / 1e6:,.0f}" for bytes_ in (*long["bytes"], large["bytes"])]
    heads = [f"after {count:,} episodes of `plain20`" for count in long["episodes"]]
    network = f"`resnet50` at {large['size']}, {large['images']} + {large['images']} images"
    return "\n".join([*_head("peak memory, MB", *heads, network), _row("", *cells)])


def _stopping(record: Mapping[str, Any]) -> str:
    """Only what was searched has seconds: without memory, the images that counted would have been run. A
    record of searches whose processor seconds were not counted has none.
    """
    asked = record["config"]
    rule = f"`env.block={asked['block']} env.confidence={asked['confidence']:g} env.rank={asked['rank']}`"
    first, count = asked.get("first", 0), asked["seeds"]
    seeds = f"seeds {first} to {first + count - 1}" if first else f"{count} seeds"
    lines = _head(
        f"{rule}, {seeds}", "with", "networks cut", "images run", "times fewer",
        "processor seconds", "best reward", "selection, %", "points apart",
    )  # fmt: skip
    for protocol, found in record["results"].items():
        plain, stopping = found["plain"], found["stopping"]
        apart, ran = found["apart"], ("evaluations", "forwards", "seconds")
        interval = f"{apart['value']:+.2f} [{apart['low']:.2f}, {apart['high']:.2f}]"
        cases = [
            ("neither", plain, ("episodes", "images", ""), "", ""),
            ("memory", plain, ran, "", ""),
            ("stopping", stopping, ("episodes", "images", ""), "", ""),
            ("both", stopping, ran, _range(found["fewer"], 1), interval),
        ]
        if "again" in found:
            cases.append(("both, again from disk", found["again"], ran, "", ""))
        name = f"`{protocol}`"
        for case, facts, (cut, run, seconds), fewer, difference in cases:
            counts = f"{facts[cut]:,.0f}", f"{facts[run]:,.0f}", fewer
            outcome = f"{facts['reward']:.3f}", f"{100 * facts['selection']:.2f}", difference
            lines.append(
                _row(name, case, *counts, f"{facts[seconds]:.0f}" if seconds in facts else "", *outcome)
            )
            name = ""
    return "\n".join(lines)


def _prefix(record: Mapping[str, Any]) -> str:
    asked = record["config"]
    lines = _head(
        f"`{asked['protocol']}`, {asked['episodes']} episodes, {asked['repeats']} repeats", "`env.prefix_mb`",
        "seconds of forward passes", "times faster", "seconds of the search", "best reward",
    )  # fmt: skip
    for agent, found in record["results"].items():
        for name, side, ratio in (
            (f"`{agent}`", "whole", ""),
            ("", "kept", _range(found["faster"], 2)),
        ):
            facts = found[side]
            size = str(asked["megabytes"]) if side == "kept" else "0"
            seconds = f"{facts['forward']:.1f}", ratio, f"{facts['seconds']:.1f}"
            lines.append(_row(name, size, *seconds, f"{facts['reward']:.3f}"))
    return "\n".join(lines)


def _range(ratio: Mapping[str, float], digits: int) -> str:
    low, high = ratio["lowest"], ratio["highest"]
    return f"{ratio['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _head(*names: str) -> list[str]:
    return [_row(*names), "|-" * len(names) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
