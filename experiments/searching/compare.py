"""Many agents and seeds on one table of the tabular benchmark: a record with a row for each search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig

from agents.search import Agent, Environment
from agents.search import search as trials
from amc_env import tabular
from amc_env.tabular import Table, TabularEnv
from experiments.cli import config
from experiments.cli.problem import build_agent, scale_of
from experiments.recording import opening
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RunRecord


def main(cfg: DictConfig, folder: Path) -> None:
    """Run every search, and say where the record is."""
    compare(cfg, folder)
    print(f"written: {folder / RECORD}; commit it: python -m experiments.report keep {folder} NAME")


def compare(cfg: DictConfig, folder: Path) -> RunRecord:
    """Search with every contender at every target with every seed; resumes an unfinished record."""
    contenders = contenders_of(cfg)
    record = opened(cfg, folder, contenders)
    table = tabular.load(cfg.table)
    jobs = list(itertools.product(cfg.targets, contenders, range(cfg.seeds)))
    with record, record.phase("search"), Meter("runs", len(jobs), done=len(record.rows)) as meter:
        best = {str(target): table.known_best(target)[1].top1 for target in cfg.targets}
        record.update(results={"known_best": best, "table": table.card.sha256})
        for target, name, seed in jobs[len(record.rows) :]:
            row = run(contenders[name], table, target, episodes=cfg.episodes, seed=seed)
            record.add(contender=name, target=target, seed=seed, **row)
            meter.update(len(record.rows), **{name: row["curve"][-1][1]})
            meter.facts.clear()
    return record


def contenders_of(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """The settings of each contender by name, see `contender`."""
    return {name: contender(name, words) for name, words in cfg.contenders.items()}


def opened(cfg: DictConfig, folder: Path, contenders: Mapping[str, Any]) -> RunRecord:
    """The folder's record of these contenders, to be resumed after its last row, or a new one."""
    settings = config.plain(cfg) | {"contenders": dict(contenders)}
    return opening.opened(folder, settings, seeds={"first": 0, "runs": cfg.seeds})


def contender(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides of the main job's configuration say of agent and environment.

    Returns:
        ``agent`` and ``env``, their settings.

    Raises:
        ConfigError: for a setting that does not exist or is of another type.
    """
    try:
        cfg = compose("config", list(overrides))
        config.check_settings(cfg)
    except Exception as error:
        raise config.ConfigError(f"contender {name}: {error}") from error
    task = {"reward": cfg.protocol.reward, "scale": scale_of(cfg), "beta": cfg.env.beta}
    return {"agent": config.complete(cfg)["agent"], "env": task}


def run(
    settings: Mapping[str, Any], table: Table, target: float, *, episodes: int, seed: int
) -> dict[str, Any]:
    """One search by a contender; see `play` for what is returned."""
    env = TabularEnv(table, target=target, **settings["env"])
    return play(env, build_agent(settings["agent"], env, seed=seed), episodes=episodes, seed=seed)


def play(env: Environment, agent: Agent, *, episodes: int, seed: int) -> dict[str, Any]:
    """Search, and note each improvement of the reward.

    Returns:
        ``curve``, for each improvement the number of the evaluation, from 1, and the plan's top-1 accuracy
        in [0, 1]; and ``distinct``, the number of different plans.
    """
    best, curve, seen = -float("inf"), list[tuple[int, float]](), set()
    for trial in trials(env, agent, episodes=episodes, seed=seed):
        final = trial.episode.final
        seen.add(final["plan"].kept)
        if trial.episode.reward > best:
            best = trial.episode.reward
            curve.append((trial.index + 1, final["top1"]))
    return {"curve": curve, "distinct": len(seen)}
