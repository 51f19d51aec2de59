"""The job of `experiments.policies`: one network searched by many agents, then tuned by the same recipe.

Each row of the record is one search; a killed run goes on with the searches that have none.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import nn

from agents.search import search
from amc_env import latency
from amc_env.building import AnyTask, make_task
from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluator, accuracy
from experiments.analysis import tuned as tables
from experiments.cli import config
from experiments.cli.problem import build_agent, trained
from experiments.recording.plans import candidates, counts, groups, plan_of
from experiments.recording.progress import Meter
from experiments.searching import stages
from experiments.searching.compare import contenders_of, is_rule, opened
from experiments.searching.confirm import APART, halved
from experiments.training.distillation import teacher_of
from experiments.training.fidelity import shares, tuned
from experiments.training.recipe import Recipe

SPLITS = ("selection", "test")
POINTS = 40  # of a curve


@dataclass(frozen=True)
class Job:
    """One search: a policy, the share of the resource that may stay, and the agent's seed."""

    policy: str
    target: float
    seed: int


@dataclass(frozen=True)
class Subject:
    """The network, its evaluators, and what is the same for every search.

    Attributes:
        task: of the network that is searched: the dense one, or what an earlier stage left of it.
        left: fractions of the dense network that it is, by resource.
        stages: shares on the way to a target.
        compressor: arguments of the task.
        teacher: of a recipe that distills.
        rounds: epochs of short fine-tunings that settle on a candidate as well, see `confirm.halved`.
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
    rounds: Sequence[float]


def main(cfg: DictConfig, folder: Path) -> None:
    """Search and tune them all, and print the table."""
    contenders = contenders_of(cfg)
    stages.check(cfg)
    if cfg.latency is not None:
        latency.read(cfg.latency)
    record = opened(cfg, folder, contenders)
    with record:
        with record.phase("prepare"):
            subject = prepared(cfg)
            dense = copy.deepcopy(subject.task.model).to(subject.task.device)
            top1 = {split: accuracy(dense, subject.task.data, split) for split in SPLITS}
            costs = stages.costs(dense, subject.task.data.shape)
            record.update(results={"groups": groups(subject.task.graph), "dense": top1, "dense_costs": costs})
        jobs = all_jobs(cfg, contenders)
        done = {Job(row["policy"], row["target"], row["seed"]) for row in record.rows}
        with record.phase("runs"), Meter("runs", len(jobs), done=len(done)) as meter:
            for job in jobs:
                if job not in done:
                    found = row(subject, contenders[job.policy], job)
                    record.add(**found)
                    meter.update(len(record.rows), **{job.policy: found["after"]["selection"]})
        print(tables.table(record.rows, cfg.resource))


def all_jobs(cfg: DictConfig, contenders: Mapping[str, Any]) -> list[Job]:
    """Every policy at every target, the first seed of all before the second.

    A rule finds the same plan with every seed, but its fine-tuning differs.
    """
    return [
        Job(name, target, seed)
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.seeds)
        for target in cfg.targets
        for name in contenders
    ]


def prepared(cfg: DictConfig) -> Subject:
    """The network of a configuration and its evaluators."""
    dense = trained(cfg)
    settings = config.plain(cfg.compressor) | {"latency": cfg.latency}
    recipe = Recipe(**config.plain(cfg.recipe))
    teacher = teacher_of(recipe, dense.model, dense.data)
    task = make_task(dense.model, dense.data, device=cfg.device, **settings)
    return Subject(
        task, task.evaluator("reward", cfg.reward_images), task.evaluator("selection"), cfg.resource,
        cfg.episodes, cfg.early, cfg.confirm, cfg.reward_images, recipe,
        {"macs": 1.0, "params": 1.0}, cfg.stages, settings, teacher, cfg.confirm_epochs,
    )  # fmt: skip


def row(subject: Subject, settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """A row of the record: one search, confirmed on the selection split and fine-tuned.

    Args:
        subject: what is searched.
        settings: ``agent`` and ``env``, as of `compare.contender`.
        job: which search.

    Returns:
        The job; what `delivered` has of the best plan, and `stages.costs` of its network; ``early``, the same
        of the first so many evaluations where there are more; ``halved``, the same of the candidate that
        short fine-tunings settle on, where there are rounds; ``stages``, what `delivered` has of earlier
        stages, where there are some; ``distinct``, how many plans were evaluated in the last one; ``curve``
        and ``curve_seconds``, see `curve`.
    """
    subject = replace(subject, recipe=replace(subject.recipe, seed=subject.recipe.seed + job.seed))
    parts, earlier = stages.stages_to(subject.stages, job.target), list[dict[str, Any]]()
    for share in parts[:-1]:
        trials = searched(subject, settings, share, job.seed, len(parts))
        network, found = delivered(subject, trials, stages=len(parts))
        earlier.append({"target": share, **found})
        subject = following(subject, network, found)
    trials = searched(subject, settings, job.target, job.seed, len(parts))
    network, found = delivered(subject, trials, stages=len(parts))
    found |= {"policy": job.policy, "target": job.target, "seed": job.seed}
    found |= stages.costs(network, subject.task.data.shape)
    if earlier:
        found["stages"] = earlier
    elif subject.early is not None and subject.early < len(trials):
        found["early"] = delivered(subject, trials[: subject.early], known=found)[1]
    if subject.rounds and len(trials) > 1:
        both = delivered(subject, trials, known=found, stages=len(parts), rounds=subject.rounds)
        found["halved"] = both[1]
    distinct = len({tuple(trial["counts"]) for trial in trials})
    return found | {"distinct": distinct, **curve(trials)}


def searched(
    subject: Subject, settings: Mapping[str, Any], share: float, seed: int, parts: int
) -> list[dict[str, Any]]:
    """The trials of a search down to a share of the dense network, with its part of the episodes."""
    target = stages.relative(share, subject.left.get(subject.resource, 1.0))
    env = CompressionEnv(
        subject.task.compressor, subject.reward, target=target, resource=subject.resource, **settings["env"]
    )
    episodes = 1 if is_rule(settings) else subject.episodes // parts
    return explore(env, build_agent(settings["agent"], env, seed=seed), episodes, seed)


def following(subject: Subject, network: nn.Module, found: Mapping[str, Any]) -> Subject:
    """The subject of the next stage: the network that one left, cut and fine-tuned."""
    task = make_task(network.cpu(), subject.task.data, device=str(subject.task.device), **subject.compressor)
    images = subject.reward_images
    return replace(
        subject, task=task, reward=task.evaluator("reward", images), selection=task.evaluator("selection"),
        left={"macs": found["macs_share"], "params": found["params_share"]},
    )  # fmt: skip


def delivered(
    subject: Subject,
    trials: Sequence[Mapping[str, Any]],
    known: Mapping[str, Any] | None = None,
    *,
    stages: int = 1,
    rounds: Sequence[float] = (),
) -> tuple[nn.Module, dict[str, Any]]:
    """The best plan of some trials, confirmed on the selection split, before and after fine-tuning.

    Args:
        subject: what was searched.
        trials: of `explore`.
        known: what this gave of more trials; the same plan is not tuned twice.
        stages: that share the epochs.
        rounds: settle on the candidate by short fine-tunings; none: by its accuracy before any.

    Returns:
        The tuned network, where ``known`` has the plan the untuned one; and ``evaluations``; ``counts``,
        ``reward`` and ``episode`` of the plan; ``macs_share`` and ``params_share``; top-1 in [0, 1] by split,
        ``before`` and ``after`` fine-tuning.
    """
    task = subject.task
    tried = candidates(trials, subject.confirm, apart=APART if rounds else 0.0)
    plans = [plan_of(task, trial["counts"]) for trial in tried]
    if rounds:
        best = tried[halved(task, plans, subject.recipe, rounds)[0]]
    else:
        best = tried[int(np.argmax([subject.selection(plan).top1 for plan in plans]))]
    evaluations = {"evaluations": len(trials)}
    network = task.network(plan_of(task, best["counts"])).to(task.device).eval()
    if known is not None and known["counts"] == list(best["counts"]):
        same = ("counts", "reward", "episode", "macs_share", "params_share", "before", "after")
        return network, {key: known[key] for key in same} | evaluations
    before = {split: accuracy(network, task.data, split) for split in SPLITS}
    recipe = replace(subject.recipe, epochs=subject.recipe.epochs // stages)
    network = tuned(network, task.data, recipe, task.device, subject.teacher)
    spent = shares(task, best["counts"])
    return network, {
        "counts": list(best["counts"]), "reward": best["reward"], "episode": best["episode"],
        "macs_share": spent["macs_share"] * subject.left["macs"],
        "params_share": spent["params_share"] * subject.left["params"], "before": before,
        "after": {split: accuracy(network, task.data, split) for split in SPLITS}, **evaluations,
    }  # fmt: skip


def curve(trials: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The best reward so far at some evaluations, spaced evenly on a log scale.

    Returns:
        ``curve``, of each its number, from 1, and the reward; ``curve_seconds``, since the search's start.
    """
    at = np.unique(np.geomspace(1, len(trials), POINTS).round().astype(int))
    rewards = np.maximum.accumulate([trial["reward"] for trial in trials])
    seconds = np.cumsum([trial["seconds"] for trial in trials])
    return {
        "curve": [[int(x), round(float(rewards[x - 1]), 6)] for x in at],
        "curve_seconds": [round(float(seconds[x - 1]), 3) for x in at],
    }


def explore(env: CompressionEnv, agent: Any, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Search to the end; of each trial what `plans.candidates` asks for, and its seconds."""
    found = []
    for trial in search(env, agent, episodes=episodes, seed=seed):
        final = trial.episode.final
        found.append(
            {
                "episode": trial.index, "reward": trial.episode.reward, "n_images": final["n_images"],
                "counts": counts(env, final["plan"]), "seconds": trial.seconds,
            }
        )  # fmt: skip
    return found
