"""The job of `experiments.fidelity`: proxies of plans, and their accuracy after fine-tuning.

Each row of the record is one plan; a killed run continues with the plans that have no row.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from amc_env.budget import Budget
from amc_env.building import AnyTask, make_task
from amc_env.checks import number_of
from amc_env.compressors import plan_of
from amc_env.evaluator import Evaluator, accuracy, compared, logits
from amc_env.metrics import Evaluation, mean
from experiments.analysis import fidelity
from experiments.analysis.repairs import COMPARED
from experiments.cli import config
from experiments.cli.identity import check_identity
from experiments.cli.trained import Trained, trained
from experiments.recording.opening import opened
from experiments.recording.plans import shares
from experiments.recording.progress import Meter
from experiments.training.finetune import tuned
from experiments.training.plan_sets import Drawn, plan_set
from experiments.training.recipe import Recipe
from experiments.training.steps import steps_an_epoch

ORDERS = ("magnitude", "elimination")
TUNED_FROM = "elimination, sequential"  # the order and repair that fine-tuning starts from
SHORT = "tuned {} steps"


@dataclass(frozen=True)
class Subject:
    """The means to measure and fine-tune plans.

    Attributes:
        tasks: of the network, by "order, repair".
        judges: evaluators on the reward split, by the same keys.
        images: number of reward images; None for all.
        plans: to compare.
        recipe: of fine-tuning.
        seeds: number of fine-tunings.
        steps: of a short fine-tuning, another proxy; at most one epoch, 0 for none.
    """

    tasks: Mapping[str, AnyTask]
    judges: Mapping[str, Evaluator]
    images: int | None
    plans: Sequence[Drawn]
    recipe: Recipe
    seeds: int
    steps: int


def main(cfg: DictConfig, folder: Path) -> None:
    """Measure and fine-tune every plan, and print the table."""
    own = range(*part_of(cfg.part, cfg.plans))
    if cfg.seeds and cfg.plans < fidelity.FEWEST:
        raise config.ConfigError(f"plans is {cfg.plans}: a rank correlation takes at least {fidelity.FEWEST}")
    record = opened(folder, config.plain(cfg), seeds={"plans": cfg.seed, "tuning": cfg.seeds})
    with record:
        with record.phase("prepare"):
            network = trained(cfg)
            digests = check_identity(record, network.model, network.data)
            subject = prepared(cfg, network)
            record.update(results=digests)
        done = {row["plan"] for row in record.rows}
        with record.phase("plans"), Meter("plans", len(own), done=len(done)) as meter:
            for index in own:
                if index not in done:
                    found = row(subject, index)
                    record.add(**found)
                    meter.update(
                        len(record.rows),
                        **{f"fine-tuned {at}": top1 for at, top1 in enumerate(found["tuned"])},
                    )
        if cfg.seeds and len(record.rows) >= fidelity.FEWEST:
            print(fidelity.table(record.rows))
        elif cfg.seeds:
            few = f"no table: it takes {fidelity.FEWEST} plans, here are {len(record.rows)}"
            print(f"{few}; `experiments.report keep` joins parts")


def part_of(part: Sequence[int], plans: int) -> tuple[int, int, int]:
    """The range of plans of one process: every so many, from its own on.

    Args:
        part: its number, from 0, and how many parts there are.
        plans: how many in all.

    Raises:
        ConfigError: for an impossible part.
    """
    if len(part) != 2 or not 0 <= part[0] < part[1] <= plans:
        raise config.ConfigError(
            f"part is a number from 0 and how many parts there are, at most a part a plan, as [1,4] for the "
            f"second of four; not {list(part)} of {number_of(plans, 'plan')}"
        )
    return part[0], plans, part[1]


def prepared(cfg: DictConfig, dense: Trained) -> Subject:
    """The network of a configuration under each order and repair, and the plans to compare.

    Raises:
        BudgetError, PlanSetError: for a target that leaves too few plans.
    """
    others = config.plain(cfg.compressor)
    others = {key: value for key, value in others.items() if key not in ("order", "repair")}
    tasks = {
        f"{order}, {repair}": make_task(
            dense.model,
            dense.data,
            order=order,
            repair=repair,
            device=cfg.device,
            latency=cfg.protocol.latency,
            force=cfg.protocol.force,
            **others,
        )
        for order in ORDERS
        for repair in COMPARED
    }
    compressor = tasks[TUNED_FROM].compressor
    budget = Budget(
        compressor, {cfg.protocol.resource: cfg.protocol.target} | dict(cfg.protocol.limits or {})
    )
    judges = {name: task.evaluator("reward", cfg.reward_images) for name, task in tasks.items()}
    recipe = Recipe(**config.plain(cfg.recipe))
    steps = min(cfg.steps, steps_an_epoch(len(dense.data["train"]), recipe.batch_size))
    plans = plan_set(budget, cfg.plans, cfg.seed)
    return Subject(tasks, judges, cfg.reward_images, plans, recipe, cfg.seeds, steps)


def row(subject: Subject, index: int) -> dict[str, Any]:
    """Measure all proxies of one plan, and its accuracy after fine-tuning, as a row of the record."""
    plan, task = subject.plans[index], subject.tasks[TUNED_FROM]
    start = task.network(plan_of(task.compressor, plan.counts))
    found = measure(subject, plan.counts, start) | tune(subject, start)
    return {"plan": index, "kind": plan.kind, "counts": list(plan.counts), **found}


def measure(subject: Subject, counts: Sequence[int], start: nn.Module) -> dict[str, Any]:
    """Every proxy of a plan on the reward split.

    Args:
        subject: see `Subject`.
        counts: of the plan.
        start: its network before fine-tuning.

    Returns:
        ``proxies``, metrics by name; ``seconds`` by the same names; ``params_share`` and ``macs_share``.
    """
    proxies, seconds = dict[str, dict[str, float]](), dict[str, float]()
    for name, judge in subject.judges.items():
        before = time.perf_counter()
        proxies[name] = metrics(judge(plan_of(subject.tasks[name].compressor, counts)))
        seconds[name] = time.perf_counter() - before
    task = subject.tasks[TUNED_FROM]
    if subject.steps:
        name, before = SHORT.format(subject.steps), time.perf_counter()
        network = tuned_shortly(start, task, subject.recipe, subject.steps)
        seconds[name] = time.perf_counter() - before
        dense = logits(copy.deepcopy(task.model).to(task.device), task.data, "reward", images=subject.images)
        proxies[name] = metrics(mean(compared(network, dense, task.data, "reward"), "reward"))
    return {"proxies": proxies, "seconds": seconds, **shares(task.compressor, counts)}


def tune(subject: Subject, start: nn.Module) -> dict[str, Any]:
    """Accuracy of a plan's network after fine-tuning.

    Returns:
        ``tuned``, top-1 in [0, 1] on the selection split by seed, and ``tuning_seconds``, their mean.
    """
    task, before, found = subject.tasks[TUNED_FROM], time.perf_counter(), []
    for seed in range(subject.seeds):
        network = tuned(start, task.data, replace(subject.recipe, seed=seed), task.device)
        found.append(accuracy(network, task.data, "selection"))
    return {"tuned": found, "tuning_seconds": (time.perf_counter() - before) / max(1, len(found))}


def tuned_shortly(network: nn.Module, task: AnyTask, recipe: Recipe, steps: int) -> nn.Module:
    """A copy of a network after a number of steps on the first images of the train split."""
    few = {**task.data.splits, "train": task.data["train"].head(steps * recipe.batch_size)}
    short = replace(recipe, epochs=1)
    return tuned(network, replace(task.data, splits=few), short, task.device)


def metrics(one: Evaluation) -> dict[str, float]:
    """The metrics of an evaluation by which plans are ranked."""
    return {name: float(getattr(one, name)) for name in fidelity.METRICS}
