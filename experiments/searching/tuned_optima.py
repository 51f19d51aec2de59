"""The job of `experiments.tuned_optima`: a sample of a table's plans, each repaired and fine-tuned.

Each row of the record is one plan; a killed run continues with the plans that have no row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from agents.search import search
from amc_env import checkpoints, tabular
from amc_env.budget import Budget
from amc_env.compressors import plan_of
from amc_env.compressors.surgery import cut
from amc_env.data.splits import DataSet
from amc_env.evaluator import accuracy
from amc_env.execution import device_of
from amc_env.repair.moments import Moments
from amc_env.tabular import Table, TabularEnv
from experiments.analysis import optima
from experiments.cli import config
from experiments.cli.problem import build_agent
from experiments.recording.progress import Meter
from experiments.searching.contest import contenders_of, is_rule, opened, seeds_of
from experiments.searching.tabulate import SOURCES, data_of, moments_of
from experiments.training.finetune import tuned
from experiments.training.recipe import Recipe

BEST = 3  # one plan of so many is of the best in the table
UPPER = 0.5  # quantile of the rewards within the budget above which the others are drawn

Found = dict[int, list[str]]  # plan, as its position in the table: whose best it is


@dataclass(frozen=True)
class Subject:
    """The network of a table, and the means to repair and fine-tune it."""

    table: Table
    model: nn.Module
    moments: Moments
    data: DataSet
    recipe: Recipe
    tunings: int
    device: Any


def main(cfg: DictConfig, folder: Path) -> None:
    """Sample, fine-tune every plan, and print the table."""
    contenders = contenders_of(cfg)
    record = opened(cfg, folder, contenders)
    with record:
        with record.phase("prepare"):
            subject = prepared(cfg)
            jobs = {
                (t, at): who for t in cfg.targets for at, who in sample(cfg, subject.table, contenders, t)
            }
        done = {(row["target"], row["plan"]) for row in record.rows}
        with record.phase("plans"), Meter("plans", len(jobs), done=len(done)) as meter:
            for (target, at), who in jobs.items():
                if (target, at) not in done:
                    record.add(target=target, plan=at, best_of=who, **row(subject, at))
                    meter.update(len(record.rows))
        print(optima.table(record.rows))


def prepared(cfg: DictConfig) -> Subject:
    """The network that a table was made from, its data and moments."""
    table = tabular.load(cfg.table)
    card = table.card
    data = data_of(card.data, card.held_out, SOURCES[cfg.table].train_images)
    model, made = checkpoints.load(checkpoints.SHIPPED / card.checkpoint)
    if made.sha256 != card.checkpoint_sha256:
        raise tabular.TableError(
            f"{card.checkpoint} is not the network that {cfg.table} was made from; "
            f"{tabular.MAKE.format(name=cfg.table)}"
        )
    recipe = Recipe(**config.plain(cfg.recipe))
    moments = moments_of(card, model, data)
    return Subject(table, model, moments, data, recipe, cfg.tunings, device_of(cfg.device))


def sample(
    cfg: DictConfig, table: Table, contenders: Mapping[str, Any], target: float
) -> list[tuple[int, list[str]]]:
    """Plans to fine-tune within a budget: the table's best, random ones, and each contender's best."""
    found: Found = {int(at): [] for at in drawn(table, target, cfg.plans)}
    for name, settings in contenders.items():
        for seed in seeds_of(cfg, settings):
            episodes = 1 if is_rule(settings) else cfg.episodes
            env = TabularEnv(table, target=target, **settings["env"])
            trials = search(env, build_agent(settings["agent"], env, seed=seed), episodes=episodes, seed=seed)
            best = max((trial.episode for trial in trials), key=lambda episode: episode.reward)
            at = np.ravel_multi_index(table.index(best.final["plan"]), table.columns["top1"].shape)
            found.setdefault(int(at), []).append(name)
    return list(found.items())


def drawn(table: Table, target: float, count: int) -> NDArray[np.int64]:
    """``(count,)`` indices of plans: a third have the largest rewards, the others are from the upper half."""
    limit = Budget(table.compressor, {"macs": target}).limit
    within = np.flatnonzero(table.columns["macs"].ravel() <= limit)
    worth = table.columns["top1"].ravel()[within].astype(float)
    order = within[np.lexsort((table.columns["loss"].ravel()[within], -worth))]
    best, rest = order[: count // BEST], order[count // BEST : round(UPPER * len(order))]
    others = np.random.default_rng(0).choice(rest, min(count - len(best), len(rest)), replace=False)
    return np.concatenate([best, np.sort(others)])


def row(subject: Subject, at: int) -> dict[str, Any]:
    """A plan's ``reward``, its top-1 in the table, and its top-1 after each fine-tuning by split."""
    table, model = subject.table, subject.model
    index = tuple(int(i) for i in np.unravel_index(at, table.columns["top1"].shape))
    plan = plan_of(table.compressor, table.counts(index))
    splits: dict[str, list[float]] = {"selection": [], "test": []}
    for seed in range(subject.tunings):
        small = cut(model, table.compressor.graph, plan, subject.moments.solve)
        network = tuned(
            small.to(subject.device), subject.data, replace(subject.recipe, seed=seed), subject.device
        )
        for split, found in splits.items():
            found.append(accuracy(network, subject.data, split))
    return {"index": list(index), "reward": table.evaluation(index).top1, **splits}
