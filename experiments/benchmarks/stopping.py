"""What stopping and remembering save of a search, and what they cost: whole searches by the main job.

Every search is run with and without stopping, and the one with it again, with what the first kept on disk.
What would be run without any memory needs no search of its own: memory changes no answer, so that it is the
images that count in the record's rows.
"""

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from amc_env.data.splits import CACHE, data_folder
from experiments import search
from experiments.analysis import stats
from experiments.benchmarks.subjects import BenchmarkError
from experiments.cli import config
from experiments.recording.record import RECORD, RunRecord, commit, without_clock

SIDES = ("plain", "stopping", "again")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The searches: each protocol with each seed.

    Args:
        protocols: of ``conf/protocol/``.
        first: seed.
        seeds: how many.
        again: whether the one that stops is run again from what it kept on disk.
        overrides: of the main job's configuration.
        block: images between two looks, see `amc_env.stopping`.
        confidence: standard errors.
        rank: of the leader that a plan is compared with.
        leaders: best plans so far of which is learnt.
        threads: of the process.
    """

    protocols: Sequence[str] = ("flops_50", "flops_30")
    first: int = 0
    seeds: int = 5
    again: bool = True
    overrides: Sequence[str] = ("agent=ddpg",)
    block: int = 50
    confidence: float = 1.2
    rank: int = 10
    leaders: int = 50
    threads: int = 1


MORE = Ablation(protocols=("flops_30",), first=10, seeds=6, again=False)  # where seeds differ most


def ablate(asked: Ablation, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the searches.

    Args:
        asked: which.
        folder: of their records and of a cache of their own; searches that are finished there are not run
            again.
        say: is told of each.

    Returns:
        ``results``, by protocol, and ``rows``, one a protocol and seed; plain data of a record.

    Raises:
        BenchmarkError: when a search was finished by other code, or what was kept on disk changes one.
    """
    rows = []
    with cache(folder / "cache"):
        for protocol in asked.protocols:
            for seed in range(asked.first, asked.first + asked.seeds):
                row = {"protocol": protocol, "seed": seed} | _compare(asked, folder, protocol, seed)
                rows.append(row)
                say(f"{protocol}, seed {seed}: {json.dumps(row)}")
    results = {name: summary([row for row in rows if row["protocol"] == name]) for name in asked.protocols}
    return {"results": results, "rows": rows}


def _compare(asked: Ablation, folder: Path, protocol: str, seed: int) -> Row:
    shared = [*asked.overrides, f"protocol={protocol}", f"seed={seed}", "env.device=cpu"]
    shared += ["deliver=false", "tracking=none"]
    stopping = [f"env.block={asked.block}", f"env.confidence={asked.confidence}"]
    stopping += [f"env.rank={asked.rank}", f"leaders={asked.leaders}", "env.memo=true"]
    found = {}
    for side in SIDES if asked.again else SIDES[:-1]:
        place = folder / f"{protocol}-{seed}-{side}"
        if not _finished(place):
            shutil.rmtree(place, ignore_errors=True)
            if side == "stopping":
                shutil.rmtree(folder / "cache" / "evaluations", ignore_errors=True)
        found[side] = searched(place, [*shared, *(["env.block=null"] if side == "plain" else stopping)])
    if asked.again and without_clock(found["again"].rows) != without_clock(found["stopping"].rows):
        raise BenchmarkError(f"{protocol}, seed {seed}: what was kept on disk changed the search")
    return {side: facts(record) for side, record in found.items()}


def _finished(folder: Path) -> bool:
    if not (folder / RECORD).exists():
        return False
    content = RunRecord.read(folder).content
    if content["commit"] != commit():
        raise BenchmarkError(f"{folder} is of {content['commit']}: delete it")
    return bool(content["status"] == "finished")


def searched(folder: Path, overrides: Sequence[str]) -> RunRecord:
    """The record of the main job's search, with the ``process_seconds`` that it took among its results."""
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("config", [*overrides, f"output={folder}"])
    before, done = time.process_time(), _finished(folder)
    record = search.search(cfg, folder)
    if not done:
        record.update(results={"process_seconds": time.process_time() - before})
    return record


def facts(record: RunRecord) -> Row:
    """What is compared of a finished search.

    ``images`` counted in its rows, ``best_images`` in that of largest reward; ``forwards`` were run, those of
    the dense network left out; ``seconds`` are the processor's for the whole job, ten plans confirmed.
    """
    best = max(record.rows, key=lambda row: row["reward"])
    work = record.content["results"]["work"]
    return {
        "episodes": len(record.rows),
        "evaluations": work["evaluations"],
        "images": sum(row["n_images"] for row in record.rows),
        "forwards": work["forwards"] - best["n_images"],
        "seconds": record.content["results"]["process_seconds"],
        "reward": best["reward"],
        "best_images": best["n_images"],
        "selection": record.content["best"]["selection"]["top1"],
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the searches of one protocol.

    ``fewer`` is how many times fewer images were run with stopping and memory than counted without stopping;
    ``apart`` the points of selection accuracy that stopping brought, with its 95 % interval over seeds.
    """
    sides = {
        side: {name: statistics.mean(row[side][name] for row in rows) for name in rows[0][side]}
        for side in SIDES
        if side in rows[0]
    }
    ratios = [row["plain"]["images"] / row["stopping"]["forwards"] for row in rows]
    apart = [[100 * (row["stopping"]["selection"] - row["plain"]["selection"])] for row in rows]
    interval = stats.estimate(apart, stats.mean, np.random.default_rng(0))
    return {
        **sides,
        "fewer": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "apart": interval._asdict(),
    }


@contextmanager
def cache(folder: Path) -> Iterator[None]:
    """A cache folder in the place of the user's, with the user's data in it and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    data, before = data_folder().resolve(), os.environ.get(CACHE)
    if not (folder / "data").is_symlink():
        (folder / "data").symlink_to(data)
    os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        del os.environ[CACHE]
        if before is not None:
            os.environ[CACHE] = before
