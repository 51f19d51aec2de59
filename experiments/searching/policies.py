"""The job of `experiments.policies`: one network searched by many agents, then fine-tuned by the same recipe.

Each row of the record is one search; a killed run continues with the searches that have no row.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from amc_env import latency
from amc_env.budget import Budget
from amc_env.building import AnyTask, make_task
from amc_env.compressors import plan_of
from amc_env.cost import RESOURCES
from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluator, accuracies
from experiments.analysis import tuned as tables
from experiments.cli import config
from experiments.cli.identity import check_identity
from experiments.cli.problem import build_agent
from experiments.cli.trained import Trained, trained
from experiments.recording.plans import candidates, groups, shares
from experiments.searching import stages
from experiments.searching.contest import (
    Job,
    build_all,
    contenders_of,
    curve,
    is_rule,
    note_critics,
    opened,
    run_all,
    trials_of,
)
from experiments.training.distillation import teacher_of
from experiments.training.finetune import tuned
from experiments.training.loop import DivergedError
from experiments.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network, its evaluators, and the settings that all searches share.

    Attributes:
        task: of the network to search: the dense one, or the result of an earlier stage.
        left: its fractions of the dense network, by resource.
        stages: fractions on the way to a target.
        compressor: arguments of the task.
        teacher: of a recipe that distills.
    """

    task: AnyTask
    reward: Evaluator
    selection: Evaluator
    resource: str
    episodes: int
    early: int | None
    confirm: int
    reward_images: int | None
    recipe: Recipe
    left: Mapping[str, float]
    stages: Sequence[float]
    compressor: Mapping[str, Any]
    teacher: nn.Module | None


def main(cfg: DictConfig, folder: Path) -> None:
    """Run and fine-tune all searches, and print the table."""
    contenders = contenders_of(cfg)
    stages.check(cfg)
    if cfg.latency is not None:
        latency.read(cfg.latency)
    record = opened(cfg, folder, contenders)
    with record:
        with record.phase("prepare"):
            network = trained(cfg)
            digests = check_identity(record, network.model, network.data)
            subject = prepared(cfg, network)
            dense = copy.deepcopy(subject.task.model).to(subject.task.device)
            top1 = accuracies(dense, subject.task.data)
            costs = stages.costs(dense, subject.task.data.shape)
            costs |= {name: Budget(subject.task.compressor, {name: 1.0}).dense for name in RESOURCES}
            known = {"groups": groups(subject.task.graph), "dense": top1, "dense_costs": costs}
            record.update(results=known | digests)
            note_critics(record, contenders)
            jobs = all_jobs(cfg, contenders)
            fractions = {share for target in cfg.targets for share in stages.stages_to(cfg.stages, target)}
            build_all(contenders, fractions, partial(environment, subject))
        run_all(
            record,
            jobs,
            lambda job: run(subject, contenders[job.policy], job),
            lambda found: float(found["after"]["selection"]),
        )
        print(tables.table(record.rows, cfg.resource))


def all_jobs(cfg: DictConfig, contenders: Mapping[str, Any]) -> list[Job]:
    """Every contender at every target, by seed.

    A rule finds the same plan with every seed, but its fine-tuning differs.
    """
    return [
        Job(name, target, seed)
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.seeds)
        for target in cfg.targets
        for name in contenders
    ]


def prepared(cfg: DictConfig, dense: Trained) -> Subject:
    """The network of a configuration with its evaluators."""
    settings = config.plain(cfg.compressor) | {"latency": cfg.latency}
    recipe = Recipe(**config.plain(cfg.recipe))
    teacher = teacher_of(recipe, dense.model, dense.data)
    with config.config_errors("compressor"):
        task = make_task(dense.model, dense.data, device=cfg.device, **settings)
    return Subject(
        task=task, reward=task.evaluator("reward", cfg.reward_images), selection=task.evaluator("selection"),
        resource=cfg.resource, episodes=cfg.episodes, early=cfg.early, confirm=cfg.confirm,
        reward_images=cfg.reward_images, recipe=recipe, left={"macs": 1.0, "params": 1.0}, stages=cfg.stages,
        compressor=settings, teacher=teacher,
    )  # fmt: skip


def run(subject: Subject, settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """`row`; an error of a fine-tuning that diverges says of which job."""
    try:
        return row(subject, settings, job)
    except DivergedError as error:
        where = f"{job.policy} at {job.target}, seed {job.seed}"
        raise DivergedError(f"{where}: {error}, and change output") from error


def row(subject: Subject, settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Run one search, confirm its plan on the selection split, and fine-tune its network.

    Args:
        subject: the network to search.
        settings: ``agent`` and ``env``, see `contest.contender`.
        job: name, target and seed.

    Returns:
        A row of the record: the job; the result of `delivered` for the best plan, and `stages.costs` of its
        network; ``early``, the same after the first evaluations; ``stages``, the results of `delivered`
        for earlier stages; ``distinct``, the number of plans evaluated in the last stage; ``curve`` and
        ``curve_seconds``, see `contest.curve`.
    """
    subject = replace(subject, recipe=replace(subject.recipe, seed=subject.recipe.seed + job.seed))
    parts, earlier = stages.stages_to(subject.stages, job.target), list[dict[str, Any]]()
    before = list[dict[str, Any]]()  # trials of the earlier stages
    for share in parts[:-1]:
        env, trials = searched(subject, settings, share, job.seed, len(parts))
        network, found = delivered(subject, env, trials, stages=len(parts))
        earlier.append({"target": share, **found})
        before += trials
        subject = following(subject, network, found)
    env, trials = searched(subject, settings, job.target, job.seed, len(parts))
    network, found = delivered(subject, env, trials, stages=len(parts))
    found |= {"policy": job.policy, "target": job.target, "seed": job.seed}
    found |= stages.costs(network, subject.task.data.shape)
    if earlier:
        found["stages"] = earlier
        found["evaluations"] += len(before)
    elif subject.early is not None and subject.early < len(trials):
        found["early"] = delivered(subject, env, trials[: subject.early], known=found)[1]
    distinct = len({tuple(trial["counts"]) for trial in trials})
    return found | {"distinct": distinct, **curve(trials, before)}


def searched(
    subject: Subject, settings: Mapping[str, Any], share: float, seed: int, parts: int
) -> tuple[CompressionEnv, list[dict[str, Any]]]:
    """A search for a fraction of the dense network, with its part of the episodes: environment and trials."""
    env = environment(subject, settings, share)
    episodes = 1 if is_rule(settings) else subject.episodes // parts
    return env, trials_of(env, build_agent(settings["agent"], env, seed=seed), episodes, seed)


def environment(subject: Subject, settings: Mapping[str, Any], share: float) -> CompressionEnv:
    """The environment of a contender within a fraction of the dense network."""
    target = stages.relative(share, subject.left.get(subject.resource, 1.0))
    return CompressionEnv(
        subject.task.compressor, subject.reward, target=target, resource=subject.resource, **settings["env"]
    )


def following(subject: Subject, network: nn.Module, found: Mapping[str, Any]) -> Subject:
    """The subject of the next stage: the cut and fine-tuned network."""
    task = make_task(network.cpu(), subject.task.data, device=str(subject.task.device), **subject.compressor)
    images = subject.reward_images
    return replace(
        subject, task=task, reward=task.evaluator("reward", images), selection=task.evaluator("selection"),
        left={"macs": found["macs_share"], "params": found["params_share"]},
    )  # fmt: skip


def delivered(
    subject: Subject,
    env: CompressionEnv,
    trials: Sequence[Mapping[str, Any]],
    known: Mapping[str, Any] | None = None,
    *,
    stages: int = 1,
) -> tuple[nn.Module, dict[str, Any]]:
    """The best plan of some trials, confirmed on the selection split, before and after fine-tuning.

    Args:
        subject: the searched network.
        env: in which it was searched; its reward chooses the candidate.
        trials: of `trials_of`.
        known: result of this function for more trials; the same plan is not fine-tuned twice.
        stages: number of stages that share the epochs.

    Returns:
        The fine-tuned network, or the repaired one if ``known`` has the plan; and ``evaluations``;
        ``counts``, ``reward`` and ``episode`` of the plan; ``macs_share`` and ``params_share``; top-1 in
        [0, 1] by split, ``before`` and ``after`` fine-tuning.
    """
    task = subject.task
    tried = candidates(trials, subject.confirm)
    best = max(tried, key=lambda trial: confirmed(subject, env, trial["counts"]))
    evaluations = {"evaluations": len(trials)}
    network = task.network(plan_of(task.compressor, best["counts"])).to(task.device).eval()
    if known is not None and known["counts"] == list(best["counts"]):
        same = ("counts", "reward", "episode", "macs_share", "params_share", "before", "after")
        return network, {key: known[key] for key in same} | evaluations
    before = accuracies(network, task.data)
    recipe = replace(subject.recipe, epochs=subject.recipe.epochs // stages)
    network = tuned(network, task.data, recipe, task.device, subject.teacher)
    spent = shares(task.compressor, best["counts"])
    return network, {
        "counts": list(best["counts"]), "reward": best["reward"], "episode": best["episode"],
        "macs_share": spent["macs_share"] * subject.left["macs"],
        "params_share": spent["params_share"] * subject.left["params"], "before": before,
        "after": accuracies(network, task.data), **evaluations,
    }  # fmt: skip


def confirmed(subject: Subject, env: CompressionEnv, kept: Sequence[int]) -> float:
    """The reward of a plan on the selection split, by its counts."""
    return env.reward(subject.selection(plan_of(subject.task.compressor, kept)), env.costs(kept))
