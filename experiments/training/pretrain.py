"""Trains a dense network and writes its checkpoint."""

import shlex
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card
from amc_env.data.splits import DataSet
from amc_env.evaluator import accuracies
from amc_env.execution import device_of
from experiments.cli import config
from experiments.cli.datasets import load_data, refuse_unlabelled
from experiments.cli.identity import check_images, images_of
from experiments.cli.record_config import of_record
from experiments.recording.opening import ended
from experiments.recording.provenance import commit
from experiments.training.fitting import fit, opened
from experiments.training.recipe import Recipe

STATE = "training.state"


def run(cfg: DictConfig, folder: Path) -> None:
    """Train, and print the accuracies and the path of the checkpoint."""
    card = pretrain(cfg, folder)
    print(", ".join(f"{split} {top1:.2%}" for split, top1 in card.accuracy.items()))
    use = shlex.quote(f"model.checkpoint={stem(cfg, folder)}")
    print(f"written: {stem(cfg, folder)}.safetensors and .json; use: {use}")


def pretrain(cfg: DictConfig, folder: Path) -> Card:
    """Train the network of a configuration; resumes an earlier call with the same folder that was killed.

    Returns:
        The card of the checkpoint, which lies at `stem`, beside the record and the training's state.

    Raises:
        DataError, ModelError, RecipeError, RecordError, DivergedError: each says what to change.
    """
    settings, device = of_record(cfg, folder), device_of(cfg.device)
    recipe, options = Recipe(**settings["recipe"]), settings["model"]["options"]
    if ended(folder, settings, "train") is not None:
        return weights.read_card(stem(cfg, folder))
    data = load_data(cfg.data)
    refuse_unlabelled(data, cfg.data.root)
    model = zoo.build(
        cfg.model.name, classes=data.classes, in_channels=data.shape[0], seed=recipe.seed, **options
    )
    zoo.check(model, data.shape, data.classes)
    seeds = {"weights": recipe.seed, "batches": recipe.seed, "splits": cfg.data.seed}
    record = opened(folder, settings, seeds=seeds, states=[STATE])
    with record, config.instantiate(cfg.tracking, folder=folder, config=record.content["config"]) as tracker:
        record.update(results=check_images(record, data))
        state = folder / STATE
        fit(model, data, recipe, device=device, state=state, record=record, tracker=tracker, phase="train")
        with record.phase("evaluate"):
            card = _card(cfg, model, data, recipe, options)
        card = weights.save(stem(cfg, folder), model.cpu(), card)
        record.update(results={"accuracy": card.accuracy, "sha256": card.sha256, "copy": data.copy})
        record.wrote(*weights.files(stem(cfg, folder)))
        tracker.summary({f"accuracy/{split}": top1 for split, top1 in card.accuracy.items()})
        tracker.artifact("checkpoint", "model", list(weights.files(stem(cfg, folder))), card.accuracy)
    return card


def stem(cfg: DictConfig, folder: Path) -> Path:
    """The path, without suffixes, of the checkpoint that a configuration's training writes."""
    return folder / f"{cfg.model.name.replace('/', '-')}-{cfg.data.name}"


def _card(
    cfg: DictConfig, model: nn.Module, data: DataSet, recipe: Recipe, options: dict[str, object]
) -> Card:
    return Card(
        architecture=cfg.model.name,
        classes=data.classes,
        in_channels=data.shape[0],
        data=data.name,
        shape=data.shape,
        seed=recipe.seed,
        data_seed=cfg.data.seed,
        commit=commit(),
        options=options,
        recipe=asdict(recipe),
        accuracy=accuracies(model, data, data.splits),
        note=data.copy,
        images=images_of(data),
    )
