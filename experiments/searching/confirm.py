"""Chooses a plan: the best candidates of a search are measured again on the selection split."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from amc_env.building import AnyTask
from amc_env.env import CompressionEnv
from amc_env.evaluator import accuracy
from amc_env.plan import Plan
from experiments.recording import plans
from experiments.recording.progress import Meter
from experiments.recording.record import RunRecord
from experiments.training.loop import train
from experiments.training.recipe import Recipe

APART = 0.02  # least difference between candidates that are fine-tuned, see `plans.difference`
STAY = 3  # one candidate of so many goes on to the next round of fine-tuning


def confirm(
    env: CompressionEnv,
    record: RunRecord,
    *,
    limit: int,
    recipe: Recipe,
    rounds: Sequence[float] = (),
) -> Plan:
    """Measure the ``limit`` best plans on the whole selection split and choose the best by reward.

    The reward of the best of many plans is partly luck on the reward images. A reward without labels also
    chooses without labels.

    Args:
        env: the environment that was searched.
        record: of the search; gets all candidates and the plan.
        limit: number of candidates.
        recipe: of their fine-tuning.
        rounds: epochs of fine-tuning in each round, see `halved`; empty to compare plans before fine-tuning.
    """
    rows = plans.candidates(record.rows, limit, apart=APART if rounds else 0.0)
    with record.phase("confirm"):
        evaluate = env.task.evaluator("selection")
        measured = [(row, evaluate(plans.plan_of(env, row["counts"]))) for row in rows]
        row, selection = max(
            measured, key=lambda item: (env.reward(item[1], env.costs(item[0]["counts"])), item[0]["reward"])
        )
        tuned: list[list[dict[str, float]]] = []
        if rounds:
            found = [plans.plan_of(env, row["counts"]) for row, _ in measured]
            best, tuned = halved(env.task, found, recipe, rounds)
            row, selection = measured[best]
        plan = plans.plan_of(env, row["counts"])
        reference = evaluate(plans.uniform(env))
    plan.write(record.folder / plans.PLAN)
    known = {key: row[key] for key in ("episode", "reward", "counts", "macs_share", "params_share")}
    tried: list[dict[str, Any]] = [
        {"episode": r["episode"], "reward": r["reward"], "selection": e.top1} for r, e in measured
    ]
    for candidate, after in zip(tried, tuned, strict=False):
        candidate["tuned"] = after
    record.update(
        best=known | {"plan": plan.to_dict(), "selection": selection},
        results={"candidates": tried, "uniform": {"selection": reference}},
    )
    return plan


def halved(
    task: AnyTask, found: Sequence[Plan], recipe: Recipe, rounds: Sequence[float]
) -> tuple[int, list[list[dict[str, float]]]]:
    """Fine-tune plans in rounds, each for the best third of the last round, and choose the best of the last.

    *Source*: successive halving, Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and
    Hyperparameter Optimization", AISTATS 2016; with thirds instead of halves.

    Args:
        task: of the plans.
        found: the plans.
        recipe: of a round, without its epochs.
        rounds: further epochs in each round; 0.125 is the first eighth of the train split.

    Returns:
        The position of the plan with the highest accuracy on the selection split, and for each plan the
        rounds that it went through: ``epochs``, and ``selection``, its accuracy in [0, 1] after them.
    """
    networks: list[nn.Module] = [task.network(plan) for plan in found]
    history: list[list[dict[str, float]]] = [[] for _ in found]
    alive, total = list(range(len(found))), _plays(len(found), len(rounds))
    with Meter("candidates fine-tuned", total) as meter:
        for number, epochs in enumerate(rounds):
            for at in alive:
                selection = _tuned(networks[at], task, recipe, epochs)
                history[at].append({"epochs": epochs, "selection": selection})
                meter.update(sum(map(len, history)), selection=selection)
            alive.sort(key=lambda at: -history[at][-1]["selection"])
            if number + 1 < len(rounds):
                alive = alive[: math.ceil(len(alive) / STAY)]
    return alive[0], history


def _plays(plans: int, rounds: int) -> int:
    """The number of fine-tunings in all rounds."""
    return plans if rounds == 1 else plans + _plays(math.ceil(plans / STAY), rounds - 1)


def _tuned(network: nn.Module, task: AnyTask, recipe: Recipe, epochs: float) -> float:
    """Train a network in place for some epochs; returns its accuracy on the selection split."""
    whole = math.ceil(epochs)
    images = task.data["train"].head(round(len(task.data["train"]) * epochs / whole))
    data = replace(task.data, splits={**task.data.splits, "train": images})
    train(network, data, replace(recipe, epochs=whole), device=task.device)
    return accuracy(network, task.data, "selection")
