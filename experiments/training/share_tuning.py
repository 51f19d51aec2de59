"""The job of `experiments.share_tuning`: one set of weights from which every plan is cut as if tuned.

*Source*: Yu & Huang, "Universally Slimmable Networks", ICCV 2019; for searches, "AutoSlim", 2019.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from amc_env import checkpoints
from amc_env.budget import Budget
from amc_env.building import Task, make_task
from amc_env.checkpoints import CheckpointError
from amc_env.cost import Ints
from amc_env.evaluator import accuracy
from amc_env.joint_task import JointTask
from amc_env.layer_task import LayerTask
from amc_env.repair.statistics import Restated
from experiments.cli import config
from experiments.cli.problem import trained
from experiments.recording.plans import plan_of
from experiments.recording.record import commit
from experiments.training.fitting import fit, opened
from experiments.training.plan_sets import BETA, filled
from experiments.training.recipe import Recipe, RecipeError
from experiments.training.sandwich import Sandwich

STATE, STEM = "shared.state", "shared"
BUDGETS = 8  # targets over the range, whose plans are drawn from
PLANS = 32  # of each
SPREADS = (BETA, 2 * BETA)  # of keep ratios around the uniform plan's, in nats to either side
IMAGES = 1000  # that the statistics of a plan are estimated on
SHARED = "shared"  # key of a card's recipe
COMMAND = "python -m experiments.share_tuning"
SEED = 1000  # of the plans: other ones than those that a table compares afterwards


def run(cfg: DictConfig, folder: Path) -> None:
    """Train the shared weights, and write them with a card."""
    asked, recipe = config.plain(cfg), Recipe(**config.plain(cfg.recipe))
    targets, dense = range_of(cfg.targets), trained(cfg)
    task = of_channels(make_task(dense.model, dense.data, device=cfg.device, **config.plain(cfg.compressor)))
    record = opened(folder, asked, seeds={"batches": recipe.seed, "plans": SEED}, states=[STATE])
    with record, config.instantiate(cfg.tracking, folder=folder, config=asked) as tracker:
        model = copy.deepcopy(task.model).to(task.device)
        with record.phase("plans"):
            lesson = Sandwich(model, task.graph, *masks(task, cfg.resource, targets))
        fit(
            model, dense.data, recipe, device=task.device, phase="train", record=record, tracker=tracker,
            state=folder / STATE, lesson=lesson,
        )  # fmt: skip
        facts = {"resource": cfg.resource, "targets": list(targets), "orders": digest(task.compressor.orders)}
        card = replace(
            dense.card, recipe=asdict(recipe) | {SHARED: facts}, seed=recipe.seed, commit=commit(),
            accuracy={split: accuracy(model, dense.data, split) for split in ("selection", "test")},
            note=f"shared by all plans, from the checkpoint {dense.card.sha256[:12]}",
        )  # fmt: skip
        card = checkpoints.save(folder / STEM, model, card)
        record.update(results={"accuracy": card.accuracy, "sha256": card.sha256})
    print(", ".join(f"the full network, {split} {top1:.2%}" for split, top1 in card.accuracy.items()))
    print(f"written: {folder / STEM}.safetensors and .json")


def of_channels(task: Task | LayerTask | JointTask) -> Task:
    """The task itself.

    Raises:
        RecipeError: where not channels are decided.
    """
    if not isinstance(task, Task):
        raise RecipeError("shared tuning is of channels: leave compressor.method=channels")
    return task


def range_of(targets: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest budget.

    Raises:
        RecipeError: for anything but two, ascending.
    """
    if len(targets) != 2 or not targets[0] < targets[1]:
        raise RecipeError(f"targets are the lowest and the highest budget, as [0.25,0.6], not {targets}")
    return float(targets[0]), float(targets[1])


def masks(
    task: Task, resource: str, targets: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The atoms ``(atoms,)`` of the cheapest plan, and ``(n, atoms)`` of random ones over the range.

    A random plan keeps share * exp(s u) of each group, u uniform in [-1, 1] and share the ratio that all
    groups that are left could keep.

    Raises:
        BudgetError: for a range whose lower end is below the smallest network.
    """
    rng, found = np.random.default_rng(SEED), []
    for target in np.linspace(*targets, BUDGETS):
        budget = Budget(task.compressor, {resource: float(target)})
        for number in range(PLANS):
            spread = SPREADS[number % len(SPREADS)]
            factors = np.exp(rng.uniform(-spread, spread, len(budget.choices)))
            found.append(task.graph.mask(plan_of(task, filled(budget, factors)).kept))
    return task.graph.mask(plan_of(task, budget.cheapest.tolist()).kept), np.stack(found)


def shared_networks(stem: str, task: Task, resource: str, target: float) -> Restated:
    """The networks that a checkpoint of shared weights has for the plans of a task.

    Args:
        stem: path of the checkpoint, without suffix.
        task: with the order that the plans are made by.
        resource: of their budget.
        target: their budget.

    Raises:
        CheckpointError: for a checkpoint of one network only, or of another order or range of budgets.
    """
    model, card = checkpoints.load(stem)
    facts = card.recipe.get(SHARED)
    if facts is None:
        raise CheckpointError(f"{stem} was not trained for all plans: make one with {COMMAND}")
    if facts["orders"] != digest(task.compressor.orders):
        raise CheckpointError(
            f"{stem} was trained for another order of channels: {COMMAND} again, with the same model, data "
            "and compressor settings"
        )
    low, high = facts["targets"]
    if facts["resource"] != resource or not low <= target <= high:
        raise CheckpointError(
            f"{stem} was trained for {low} to {high} of the {facts['resource']}, asked for {target} of the "
            f"{resource}: {COMMAND} with resource={resource} and targets around {target}"
        )
    return Restated(model, task.graph, task.data, images=IMAGES, device=task.device)


def digest(orders: Sequence[Ints]) -> str:
    """Equal for equal orders."""
    return hashlib.sha256(json.dumps([order.tolist() for order in orders]).encode()).hexdigest()[:16]
