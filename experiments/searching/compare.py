"""Many agents and seeds on one table of the tabular benchmark: a record with a row for each search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from agents import critic, rules
from agents.episode import Agent
from agents.pretrained import SHIPPED, Pretrained
from agents.search import search as trials
from amc_env import tabular
from amc_env.env import CompressionEnv
from amc_env.rewards import REWARDS
from amc_env.tabular import Table, TabularEnv
from experiments.analysis.keeping import commit_advice
from experiments.cli import config
from experiments.cli import contenders as named
from experiments.cli.problem import build_agent, scale_of
from experiments.recording import opening
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RecordError, RunRecord


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


def build_all(
    contenders: Mapping[str, Any],
    targets: Iterable[float],
    environment: Callable[[Mapping[str, Any], float], CompressionEnv],
) -> None:
    """Build each environment and agent once, so that a wrong setting is an error before the first search.

    Args:
        contenders: their settings by name.
        targets: fractions of the resource.
        environment: makes that of a contender's settings and a target.
    """
    for target, settings in itertools.product(targets, contenders.values()):
        build_agent(settings["agent"], environment(settings, target), seed=0)


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


def note_critics(record: RunRecord, contenders: Mapping[str, Any]) -> None:
    """Write into a record which critics contenders read, and which tables these were trained on.

    Raises:
        CriticError: for a file that is no critic.
        RecordError: if the record was begun with other critics of that name.
    """
    found = {}
    for name, settings in contenders.items():
        if settings["agent"]["_target_"] == f"{Pretrained.__module__}.{Pretrained.__name__}":
            known = critic.read(Path(settings["agent"].get("critic") or SHIPPED))
            found[name] = {"sha256": known.digest, "tables": list(known.tables)}
    if record.content["results"].get("critics", found) != found:
        raise RecordError(f"{record.folder} was begun with other critics: choose another folder")
    if found:
        record.update(results={"critics": found})


def contenders_of(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """The settings of the named contenders, see `contender`."""
    return {name: contender(name, cfg.contenders[name]) for name in named.chosen(cfg)}


def opened(cfg: DictConfig, folder: Path, contenders: Mapping[str, Any]) -> RunRecord:
    """The folder's record of these contenders, to be resumed after its last row, or a new one."""
    settings = config.plain(cfg) | {"contenders": dict(contenders)}
    del settings["only"]  # the contenders are
    return opening.opened(folder, settings, seeds={"first": cfg.first_seed, "runs": cfg.seeds})


def seeds_of(cfg: DictConfig, settings: Mapping[str, Any]) -> range:
    """The seeds of a contender's runs; a rule, which is deterministic, has only seed 0."""
    return range(cfg.first_seed, 1 if is_rule(settings) else cfg.first_seed + cfg.seeds)


def is_rule(settings: Mapping[str, Any]) -> bool:
    """Whether a contender always plays the same plan."""
    return rules.is_rule(str(settings["agent"]["_target_"]))


def contender(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of agent and environment in overrides of the main job's configuration.

    Returns:
        ``agent`` and ``env``, their settings.

    Raises:
        ConfigError: for a setting that does not exist or is of another type.
    """
    cfg = named.configured(name, overrides)
    task = {"reward": cfg.protocol.reward, "scale": scale_of(cfg), "beta": cfg.env.beta}
    return {"agent": config.complete(cfg)["agent"], "env": task}


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
