"""One search for all budgets beside a search for each, on a table, with equally many evaluations in all.

The plan for a budget is, of all plans of a run that cost no more, the one of largest reward, whatever target
it was found for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from agents.search import Environment, search
from amc_env import tabular
from amc_env.budget import Budget
from amc_env.tabular import Table, TabularEnv
from amc_env.wrappers import Goals
from experiments.cli import config
from experiments.cli.problem import build_agent
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RunRecord
from experiments.searching.compare import contenders_of, opened


class Found(NamedTuple):
    """A plan of a run: the target it was found for, its cost, its reward and its accuracy in [0, 1]."""

    target: float
    cost: int
    reward: float
    top1: float


def main(cfg: DictConfig, folder: Path) -> None:
    """Run every search, and say where the record is."""
    budgets(cfg, folder)
    print(f"written: {folder / RECORD}; commit it: python -m experiments.report keep {folder} NAME")


def budgets(cfg: DictConfig, folder: Path) -> RunRecord:
    """Search with every contender with every seed; resumes an unfinished record.

    Raises:
        ConfigError: when the evaluations cannot be shared out evenly.
    """
    if cfg.episodes % len(cfg.targets):
        raise config.ConfigError(f"episodes={cfg.episodes} are not the same for {len(cfg.targets)} targets")
    contenders = contenders_of(cfg)
    record = opened(cfg, folder, contenders)
    table, targets = tabular.load(cfg.table), list(cfg.targets)
    jobs = list(itertools.product(range(cfg.seeds), contenders))
    with record, record.phase("search"), Meter("runs", len(jobs), done=len(record.rows)) as meter:
        best = {str(target): table.known_best(target)[1].top1 for target in targets}
        searches = {name: len(_shared_out(contenders[name], targets)) for name in contenders}
        record.update(results={"known_best": best, "searches": searches, "table": table.card.sha256})
        for seed, name in jobs[len(record.rows) :]:
            plans = list(run(contenders[name], table, targets, episodes=cfg.episodes, seed=seed))
            own = [top1_of(plan for plan in plans if plan.target == target) for target in targets]
            record.add(contender=name, seed=seed, top1=read_off(plans, table, targets), own=own)
            meter.update(len(record.rows))
    return record


def run(
    settings: Mapping[str, Any], table: Table, targets: Sequence[float], *, episodes: int, seed: int
) -> Iterator[Found]:
    """The plans of one contender with one seed, from as many searches as it needs for the targets."""
    parts = _shared_out(settings, targets)
    for number, part in enumerate(parts):
        own = seed * len(parts) + number
        env = _environment(settings, table, part)
        agent = build_agent(settings["agent"], env, seed=own)
        for trial in search(env, agent, episodes=episodes // len(parts), seed=own):
            final = trial.episode.final
            target = final.get("target", part[0])
            yield Found(target, final["macs"], trial.episode.reward, final["top1"])


def read_off(plans: Sequence[Found], table: Table, targets: Sequence[float]) -> list[float | None]:
    """The accuracy of the best plan within each target; None where none is."""
    limits = [Budget(table.compressor, {"macs": target}).limit for target in targets]
    return [top1_of(plan for plan in plans if plan.cost <= limit) for limit in limits]


def top1_of(plans: Iterator[Found]) -> float | None:
    """The accuracy of the plan of largest reward, of equals the first; None where there is none."""
    best = max(plans, key=lambda plan: plan.reward, default=None)
    return None if best is None else best.top1


def _shared_out(settings: Mapping[str, Any], targets: Sequence[float]) -> list[list[float]]:
    """The targets of each search: all of them in one for who takes many, else one each."""
    return [list(targets)] if settings.get("targets") else [[target] for target in targets]


def _environment(settings: Mapping[str, Any], table: Table, targets: Sequence[float]) -> Environment:
    env = TabularEnv(table, target=targets[0], **settings["env"])
    return Goals(env, targets) if settings.get("targets") else env
