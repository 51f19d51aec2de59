"""The job of `experiments.photos`: one network cut by many agents, without training and without labels.

Each row of the record is one search; a killed run continues with the searches that have no row.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from amc_env import latency
from amc_env.building import make_task
from amc_env.compressors import plan_of
from amc_env.compressors.networks import Networks
from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluator, compared, logits
from amc_env.metrics import Images, mean
from amc_env.task import Task
from experiments.analysis import untuned
from experiments.cli import config
from experiments.cli.identity import check_identity
from experiments.cli.problem import build_agent
from experiments.cli.trained import Trained, trained
from experiments.delivery.picture import draw
from experiments.recording.plans import candidates, groups, shares
from experiments.searching import one_shot
from experiments.searching.contest import (
    Job,
    build_all,
    contenders_of,
    curve,
    is_rule,
    note_critics,
    opened,
    run_all,
    seeds_of,
    trials_of,
)

SPLITS = ("selection", "test")
UNIFORM = "uniform"


@dataclass
class Subject:
    """The network, its evaluator, and the settings that all searches share."""

    task: Task
    reward: Evaluator
    resource: str
    episodes: int
    confirm: int
    images: int

    @cached_property
    def networks(self) -> Networks:
        """Makes the networks that are confirmed and measured."""
        return self.task.networks(len(self.task.data["test"]), "test")

    @cached_property
    def dense(self) -> dict[str, Tensor]:
        """Logits of the dense network by split."""
        network = copy.deepcopy(self.task.model).to(self.task.device)
        return {split: logits(network, self.task.data, split) for split in SPLITS}

    def compared(self, network: nn.Module, split: str) -> Images:
        """Compare a network with the dense one on each image of a split."""
        return compared(network, self.dense[split], self.task.data, split)

    def network(self, counts: Sequence[int]) -> nn.Module:
        """The network that keeps these counts of channels; the next call overwrites the same module."""
        return self.networks.network(plan_of(self.task.compressor, counts))


def main(cfg: DictConfig, folder: Path) -> None:
    """Run and measure all searches, and print the table."""
    contenders = contenders_of(cfg)
    if cfg.latency is not None:
        latency.read(cfg.latency)
    record = opened(cfg, folder, contenders)
    with record:
        with record.phase("prepare"):
            network = trained(cfg)
            digests = check_identity(record, network.model, network.data)
            subject = prepared(cfg, network)
            known = {"groups": groups(subject.task.graph), "dense": dense(subject)}
            record.update(results=known | digests)
            note_critics(record, contenders)
            build_all(contenders, cfg.targets, partial(environment, subject))
        run_all(
            record,
            all_jobs(cfg, contenders),
            lambda job: row(subject, contenders.get(job.policy), job),
            lambda found: float(found["agreement"]["selection"]),
        )
        pictures(subject, record.rows, folder)
        print(untuned.table([record.content | {"rows": record.rows}], cfg.resource))


def all_jobs(cfg: DictConfig, contenders: Mapping[str, Any]) -> list[Job]:
    """Every contender and one-shot method at every target, by seed; what is no search has only one."""
    return [
        Job(name, target, seed)
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.seeds)
        for target in cfg.targets
        for name in (*contenders, *cfg.one_shot)
        if seed in (seeds_of(cfg, contenders[name]) if name in contenders else (0,))
    ]


def prepared(cfg: DictConfig, network: Trained) -> Subject:
    """The network of a configuration with its evaluator."""
    settings = config.plain(cfg.compressor) | {"latency": cfg.latency, "device": cfg.device}
    with config.config_errors("compressor"):
        task = make_task(network.model, network.data, **settings)
    assert isinstance(task, Task)
    return Subject(
        task, task.evaluator("reward", cfg.reward_images), cfg.resource, cfg.episodes, cfg.confirm,
        cfg.compressor.calibration_images,
    )  # fmt: skip


def dense(subject: Subject) -> dict[str, Any]:
    """The dense network on the test split: top-1 in [0, 1], and the indices of wrongly classified images."""
    right = (subject.dense["test"].argmax(1) == subject.task.data["test"].labels).numpy()
    return {"test": float(right.mean()), "missed": np.flatnonzero(~right).tolist()}


def row(subject: Subject, settings: Mapping[str, Any] | None, job: Job) -> dict[str, Any]:
    """Run one search, confirmed on the selection split, or a one-shot method; measure the network.

    Args:
        subject: the network to search.
        settings: ``agent`` and ``env``, see `contest.contender`; None for a one-shot method.
        job: name, target and seed.

    Returns:
        A row of the record: the job, the results of `searched` or `shot` and of `measured`, and
        ``search_seconds`` until the network.
    """
    torch.cuda.empty_cache()  # does nothing where there is no GPU
    start = time.perf_counter()
    found, network = shot(subject, job) if settings is None else searched(subject, settings, job)
    return {
        "policy": job.policy, "target": job.target, "seed": job.seed, **found,
        "search_seconds": round(time.perf_counter() - start, 3), **measured(subject, network),
    }  # fmt: skip


def searched(subject: Subject, settings: Mapping[str, Any], job: Job) -> tuple[dict[str, Any], nn.Module]:
    """Search, and choose the plan with the highest reward on the selection split.

    Returns:
        ``counts``, ``reward`` and ``episode`` of the plan; ``macs_share`` and ``params_share``;
        ``distinct`` and ``evaluations``, how many plans were evaluated, and in how many episodes; and
        `contest.curve`. Beside it the plan's network.
    """
    task, env = subject.task, environment(subject, settings, job.target)
    episodes = 1 if is_rule(settings) else subject.episodes
    trials = trials_of(env, build_agent(settings["agent"], env, seed=job.seed), episodes, job.seed)

    best: Mapping[str, Any] = trials[0]
    network, highest = None, -math.inf
    for trial in candidates(trials, subject.confirm):
        tried = subject.network(trial["counts"])
        evaluation = mean(subject.compared(tried, "selection"), "selection")
        if (reward := env.reward(evaluation, env.costs(trial["counts"]))) > highest:
            best, network, highest = trial, copy.deepcopy(tried), reward
    assert network is not None
    found = {
        "counts": list(best["counts"]), "reward": best["reward"], "episode": best["episode"],
        **shares(task.compressor, best["counts"]),
        "distinct": len({tuple(trial["counts"]) for trial in trials}),
        "evaluations": episodes, **curve(trials),
    }  # fmt: skip
    return found, network


def environment(subject: Subject, settings: Mapping[str, Any], target: float) -> CompressionEnv:
    """The environment of a contender."""
    return CompressionEnv(
        subject.task.compressor, subject.reward, target=target, resource=subject.resource, **settings["env"]
    )


def shot(subject: Subject, job: Job) -> tuple[dict[str, Any], nn.Module]:
    """Run a method of `one_shot` and re-estimate batch norms; ``macs_share`` is what it keeps."""
    task = subject.task
    network = getattr(one_shot, job.policy)(task.model, task.data, job.target)
    share = one_shot.total(network, task.data) / one_shot.total(task.model, task.data)
    one_shot.re_estimate(network.to(task.device), task.data, subject.images)
    return {"macs_share": share, "evaluations": 0}, network


def measured(subject: Subject, network: nn.Module) -> dict[str, Any]:
    """Compare a network with the dense one.

    Returns:
        ``top1`` and ``agreement`` in [0, 1] and ``kl`` in nats, means by split; and ``images``, for a
        bootstrap over the test split: the indices of wrongly classified images, ``missed``, and of those
        that the dense network classifies differently, ``changed``; each image's ``kl`` and class, ``said``.
    """
    found = {split: subject.compared(network, split) for split in SPLITS}
    means = {split: mean(images, split) for split, images in found.items()}
    test = found["test"]
    return {
        name: {split: getattr(one, name) for split, one in means.items()}
        for name in ("top1", "agreement", "kl")
    } | {
        "images": {
            "missed": np.flatnonzero(~test["top1"]).tolist(),
            "changed": np.flatnonzero(~test["agreement"]).tolist(),
            "kl": [round(float(value), 4) for value in test["kl"]],
            "said": test["said"].tolist(),
        }
    }


def pictures(subject: Subject, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw photographs with the classes by the uniform policy's network and the best other, by target."""
    for target in dict.fromkeys(row["target"] for row in rows):
        here = [row for row in rows if row["target"] == target]
        uniform = [row for row in here if row["policy"] == UNIFORM]
        others = [row for row in here if row["policy"] != UNIFORM]
        if uniform and others:
            best = max(others, key=lambda row: row["agreement"]["selection"])
            said = {row["policy"]: torch.tensor(row["images"]["said"]) for row in (uniform[0], best)}
            dense = {"dense": subject.dense["test"].argmax(1)}
            draw(subject.task.data, dense | said, folder / f"predictions-{100 * target:g}.png")
