"""Fine-tunes the network of a search's plan."""

import copy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from amc_env import checkpoints as weights
from amc_env.card import COMPRESSED, Card
from amc_env.compressors.constraints import unconstrained
from amc_env.compressors.surgery import tensors
from amc_env.data.splits import DataSet
from amc_env.env import CompressionEnv
from amc_env.evaluator import accuracies
from amc_env.plan import Plan
from experiments.cli import config
from experiments.cli.identity import check_identity
from experiments.cli.preflight import check_rate
from experiments.cli.problem import environment, searched
from experiments.cli.record_config import of_record
from experiments.cli.trained import Trained, trained
from experiments.recording import plans
from experiments.recording import state as states
from experiments.recording.opening import ended
from experiments.recording.provenance import commit
from experiments.recording.record import RunRecord
from experiments.recording.tracking import Tracker
from experiments.training.distillation import teacher_of
from experiments.training.fitting import fit, opened
from experiments.training.loop import train
from experiments.training.recipe import Recipe

STATE, UNIFORM_STATE = "finetune.state", "finetune-uniform.state"
STEM = "compressed"  # name of the network's files in a run's folder


def run(cfg: DictConfig, folder: Path) -> None:
    """Fine-tune from the repaired weights, then write the network with its accuracies."""
    of_search, plan = searched(Path(cfg.run), cfg.target), plans.of_run(Path(cfg.run))
    asked, recipe = of_record(cfg, folder), Recipe(**config.plain(cfg.recipe))
    if ended(folder, asked, "fine-tune") is not None:
        states.remove(folder / STATE)  # of a run that was killed when it had finished
        return
    check_rate(of_search.compressor.method, "recipe.lr", recipe.lr)
    record = opened(folder, asked, seeds={"batches": recipe.seed}, states=[STATE])
    its = RunRecord.read(Path(cfg.run))
    told = asked | {key: its.content["config"][key] for key in ("agent", "protocol", "model", "data")}
    with record, config.instantiate(cfg.tracking, folder=folder, config=told) as tracker:
        original = trained(of_search)
        check_identity(its, original.model, original.data)
        env = environment(of_search, original)
        network = env.task.network(plan)
        tuned = finetune(
            network, original.data, recipe, dense=original.model, device=env.task.device, record=record,
            tracker=tracker,
        )  # fmt: skip
        measured = accuracies(tuned, original.data)
        card = weights.save(folder / STEM, tuned, card_of(original, env, plan, measured, recipe, recipe.seed))
        record.update(results={"accuracy": measured})
        record.wrote(*weights.files(folder / STEM))
        tracker.summary({f"accuracy/{split}": top1 for split, top1 in measured.items()})
        tracker.artifact("checkpoint", "model", list(weights.files(folder / STEM)), card.accuracy)
    states.remove(folder / STATE)
    print(", ".join(f"{split} {top1:.2%}" for split, top1 in measured.items()))
    print(f"written: {folder / STEM}.safetensors and .json")


def card_of(
    original: Trained,
    env: CompressionEnv,
    plan: Plan,
    accuracy: dict[str, float],
    recipe: Recipe | None,
    seed: int,
) -> Card:
    """The card of a plan's network; without a recipe it keeps the dense network's."""
    return replace(
        original.card, plan=env.task.described(plan), keep_whole=list(env.graph.keep_whole),
        recipe=original.card.recipe if recipe is None else asdict(recipe), accuracy=accuracy, seed=seed,
        commit=commit(), note=f"{COMPRESSED} {original.card.sha256[:12]}",
        given=env.graph.given.to_dict() if env.graph.given.part else None,
    )  # fmt: skip


def finetune(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    dense: nn.Module,
    device: torch.device,
    record: RunRecord,
    tracker: Tracker,
    state: str = STATE,
    name: str = "train",
) -> nn.Module:
    """Train a copy of a compressed network; the last epoch's weights are returned, whatever their accuracy.

    Args:
        network: the physically smaller network, with its batch norms.
        data: the network is trained on the train split.
        recipe: the training recipe; a cosine schedule without warm-up is usual.
        dense: the network before cutting; the teacher of a recipe that names no other.
        device: where to train; the copy comes back to the CPU.
        record: gets a row an epoch; a killed fine-tuning resumes from the state in its folder.
        tracker: gets the same rows.
        state: name of the file in the record's folder that a killed fine-tuning resumes from. The caller
            deletes it when nothing that follows can be killed.
        name: before the rows' metrics.
    """
    tuned = copy.deepcopy(network)
    fit(
        tuned, data, recipe, device=device, state=record.folder / state, record=record, tracker=tracker,
        phase="finetune", name=name, teacher=teacher_of(recipe, dense, data),
    )  # fmt: skip
    return unconstrained(_filled(network, tuned))


def tuned(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    device: torch.device,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """A fine-tuned copy of a network, by a teacher if the recipe distills; it stays on the device."""
    copied = copy.deepcopy(network)
    train(copied, data, recipe, device=device, teacher=teacher)
    return copied


def _filled(network: nn.Module, tuned: nn.Module) -> nn.Module:
    """A fresh copy of a network, in evaluation mode, with the numbers of the one that was trained.

    What else a forward left in the trained one, such as feature maps with their gradients, stays behind.
    """
    fresh, numbers = copy.deepcopy(network).eval(), dict(tensors(tuned))
    for name, value in tensors(fresh):
        value.copy_(numbers[name])
    return fresh
