"""Many agents and seeds on one table of the tabular benchmark: a record with a row for each search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from agents.episode import Agent
from agents.search import search as trials
from amc_env import tabular
from amc_env.rewards import REWARDS
from amc_env.tabular import Table, TabularEnv
from experiments.analysis.keeping import commit_advice
from experiments.cli import config
from experiments.cli.problem import build_agent
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RecordError, RunRecord
from experiments.searching.contest import build_all, contenders_of, is_rule, note_critics, opened, seeds_of


def main(cfg: DictConfig, folder: Path) -> None:
    """Run every search and print the path of the record."""
    compare(cfg, folder)
    print(f"written: {folder / RECORD}{commit_advice(folder, cfg.table)}")


def compare(cfg: DictConfig, folder: Path) -> RunRecord:
    """Search with every contender at every target with every seed; resumes an unfinished record."""
    contenders = contenders_of(cfg)
    jobs = [
        (target, name, seed)
        for target, (name, settings) in itertools.product(cfg.targets, contenders.items())
        for seed in seeds_of(cfg, settings)
    ]
    if not jobs:
        raise config.ConfigError("there is nothing to run: a rule has seed 0 alone, give first_seed=0")
    record = opened(cfg, folder, contenders)
    table = tabular.load(cfg.table)
    with record, record.phase("search"), Meter("runs", len(jobs), done=len(record.rows)) as meter:
        note_table(record, table, cfg.targets)
        note_critics(record, contenders)
        build_all(contenders, cfg.targets, lambda of, target: TabularEnv(table, target=target, **of["env"]))
        done = {(row["target"], row["contender"], row["seed"]) for row in record.rows}
        for target, name, seed in (job for job in jobs if job not in done):
            episodes = 1 if is_rule(contenders[name]) else cfg.episodes
            row = run(contenders[name], table, target, episodes=episodes, seed=seed)
            record.add(contender=name, target=target, seed=seed, **row)
            meter.update(len(record.rows), **{name: row["curve"][-1][1]})
            meter.facts.clear()
    return record


def note_table(record: RunRecord, table: Table, targets: Sequence[float]) -> None:
    """Write a table's digest and its best accuracy at each target into a record.

    Raises:
        RecordError: if the record was begun on another table of that name.
    """
    if record.content["results"].get("table") not in (None, table.card.sha256):
        raise RecordError(
            f"{record.folder} was begun on another table of this name: put its file back, or choose another "
            "folder"
        )
    best = {str(target): round(table.known_best(target)[1].top1, 6) for target in targets}
    record.update(results={"known_best": best, "table": table.card.sha256})


def run(
    settings: Mapping[str, Any], table: Table, target: float, *, episodes: int, seed: int
) -> dict[str, Any]:
    """Run one search by a contender; returns the same as `play`."""
    env = TabularEnv(table, target=target, **settings["env"])
    return play(env, build_agent(settings["agent"], env, seed=seed), episodes=episodes, seed=seed)


def play(env: TabularEnv, agent: Agent, *, episodes: int, seed: int) -> dict[str, Any]:
    """Search until the known best plan is found, and record each improvement of the reward.

    Returns:
        ``curve``, for each improvement the number of the evaluation, from 1, and the plan's top-1 accuracy
        in [0, 1]; ``played``, the number of evaluations; and ``distinct``, that of different plans.
    """
    top1 = env.known_best.top1  # no later plan has a larger reward, where the error is the reward
    best, curve, seen = -float("inf"), list[tuple[int, float]](), set()
    for trial in trials(env, agent, episodes=episodes, seed=seed):
        final = trial.episode.final
        seen.add(final["plan"].kept)
        if trial.episode.reward > best:
            best = trial.episode.reward
            curve.append((trial.index + 1, round(final["top1"], 6)))
        if final["top1"] >= top1 and env.reward is REWARDS["error"]:
            break
    return {"curve": curve, "played": trial.index + 1, "distinct": len(seen)}
