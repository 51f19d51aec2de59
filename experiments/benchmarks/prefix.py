"""What it brings not to run first layers again: whole searches by the main job, with and without."""

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.stopping import searched
from experiments.benchmarks.subjects import BenchmarkError
from experiments.recording.record import without_clock

SIDES = ("whole", "kept")


@dataclass(frozen=True, kw_only=True)
class Searches:
    """The searches: each agent's, by turns without and with prefixes that are kept.

    Args:
        agents: of ``conf/agent/``.
        protocol: of ``conf/protocol/``.
        episodes: of each search.
        repeats: how often each.
        megabytes: that are kept.
        overrides: of the main job's configuration.
        threads: of the process.
    """

    agents: Sequence[str] = ("greedy", "ddpg")
    protocol: str = "flops_50"
    episodes: int = 200
    repeats: int = 3
    megabytes: int = 256
    overrides: Sequence[str] = ()
    threads: int = 1


def compare(asked: Searches, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the searches.

    Args:
        asked: which.
        folder: of their records; what lies there is deleted.
        say: is told of each.

    Returns:
        ``results``, by agent, and ``rows``, one an agent and repeat; plain data of a record.

    Raises:
        BenchmarkError: when what is kept changes a search.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for repeat in range(asked.repeats):
        for agent in asked.agents:
            row = {"agent": agent, "repeat": repeat} | _both(asked, folder / f"{agent}-{repeat}", agent)
            rows.append(row)
            say(json.dumps(row))
    results = {name: summary([row for row in rows if row["agent"] == name]) for name in asked.agents}
    return {"results": results, "rows": rows}


def _both(asked: Searches, folder: Path, agent: str) -> dict[str, Any]:
    shared = [*asked.overrides, f"agent={agent}", f"protocol={asked.protocol}", f"episodes={asked.episodes}"]
    shared += ["env.device=cpu", "deliver=false", "tracking=none"]
    records = {
        side: searched(folder / side, [*shared, f"env.prefix_mb={megabytes}"])
        for side, megabytes in zip(SIDES, (0, asked.megabytes), strict=True)
    }
    if without_clock(records["kept"].rows) != without_clock(records["whole"].rows):
        raise BenchmarkError(f"{agent}: what was kept of first layers changed the search")
    return {
        side: {
            "forward": record.content["seconds"]["forward"],
            "seconds": record.content["seconds"]["search"],
            "reward": record.content["best"]["reward"],
        }
        for side, record in records.items()
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of one agent's repeats, and how many times faster its forward passes were, pair by pair."""
    sides = {
        side: {name: statistics.median(row[side][name] for row in rows) for name in rows[0][side]}
        for side in SIDES
    }
    ratios = [row["whole"]["forward"] / row["kept"]["forward"] for row in rows]
    faster = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {**sides, "faster": faster}
