"""Many agents and seeds on a real network.

Each run is a search of the main job in a folder of its own; one record has a row for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig

from experiments.recording.record import RECORD, RunRecord
from experiments.searching.compare import contenders_of, opened
from experiments.searching.search import search

FIXED = ("deliver=false", "tracking=none")


def main(cfg: DictConfig, folder: Path) -> None:
    """Run every search, and say where the record is."""
    ablate(cfg, folder)
    print(f"written: {folder / RECORD}; commit it: python -m experiments.report keep {folder} NAME")


def ablate(cfg: DictConfig, folder: Path) -> RunRecord:
    """Search with every contender at every target with every seed; resumes an unfinished record."""
    record = opened(cfg, folder, contenders_of(cfg))
    jobs = list(itertools.product(cfg.targets, cfg.contenders, range(cfg.seeds)))
    with record, record.phase("search"):
        for target, name, seed in jobs[len(record.rows) :]:
            place = folder / f"{name}-{target}-{seed}"
            found = run(
                cfg.contenders[name],
                place,
                experiment=cfg.experiment,
                target=target,
                episodes=cfg.episodes,
                seed=seed,
            )
            record.add(contender=name, target=target, seed=seed, **found)
            print(f"run {len(record.rows)} of {len(jobs)}, {place.name}: selection {found['selection']:.2%}")
    return record


def run(
    overrides: Sequence[str], folder: Path, *, experiment: str, target: float, episodes: int, seed: int
) -> dict[str, Any]:
    """One search, and what it found.

    Returns:
        ``curve``, for each improvement of the reward the number of the evaluation, from 1, and top1 in [0, 1]
        on the reward images; and ``selection``, top1 of the confirmed plan on the selection split.
    """
    asked = [f"experiment={experiment}", *overrides, *FIXED]
    asked += [f"protocol.target={target}", f"episodes={episodes}", f"seed={seed}", f"output={folder}"]
    record = search(compose("config", asked), folder)
    best, curve = -float("inf"), list[tuple[int, float]]()
    for row in record.rows:
        if row["reward"] > best:
            best = row["reward"]
            curve.append((row["episode"] + 1, row["top1"]))
    return {"curve": curve, "selection": record.content["best"]["selection"]["top1"]}
