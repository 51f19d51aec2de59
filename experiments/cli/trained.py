"""Builds the trained network that a configuration names, with its data."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card, CheckpointError
from amc_env.data import photos
from amc_env.data.imagefolder import classes_of
from amc_env.data.specs import SPECS
from amc_env.data.splits import DataError, DataSet
from amc_env.zoo.states import is_state, load_state
from experiments.cli import config
from experiments.cli.datasets import load_data
from experiments.cli.identity import check_splits, images_of
from experiments.recording.provenance import commit


@dataclass(frozen=True)
class Trained:
    """A dense network, the card of its weights, and its data."""

    model: nn.Module
    card: Card
    data: DataSet


def trained(cfg: DictConfig) -> Trained:
    """The network and data that a configuration names.

    A network of the zoo is read from its checkpoint. A network with ``options.weights``, or a user's own, may
    be trained already when it is built; then a checkpoint is read only if it is given. ``model.checkpoint``
    may also be a plain file of weights, such as a ``.pth``.

    Raises:
        DataError, ModelError, CheckpointError: for what is missing, unknown or does not fit.
    """
    data = load_data(cfg.data)
    name, stem, options = cfg.model.name, checkpoint_of(cfg), config.plain(cfg.model.options)
    if is_state(stem) and "weights" in options:
        options["weights"] = None  # they would be replaced
    builds = name == "import" or is_state(stem) or (options.get("weights") and stem is None)
    model, card = _built(cfg, data, options) if builds else _read(cfg, data, options)
    check_splits(card, cfg.data.seed, data)
    if builds:  # perhaps filled from a checkpoint of other data
        card = replace(card, data=data.name, shape=data.shape, data_seed=cfg.data.seed)
    if card.data == data.name:  # what is fine-tuned is trained on these splits
        card = replace(card, images=images_of(data))
    return Trained(model, card, _labelled(cfg, model, data))


def _built(cfg: DictConfig, data: DataSet, options: dict[str, Any]) -> tuple[nn.Module, Card]:
    """A network that is built first, and then filled with the weights of a file or a checkpoint, if any."""
    name, stem = cfg.model.name, checkpoint_of(cfg) or ""
    bare_weights = is_state(stem)
    held = None if bare_weights or not stem else weights.read_card(stem)
    if held is not None and held.architecture == name:
        _check_options(options, held, stem)
        options = held.options | options
    with config.config_errors("model.options"):
        model = zoo.build(name, classes=data.classes, in_channels=data.shape[0], **options).eval()
    if name.startswith("torchvision/") and hasattr(model, "transform_input"):  # it depends on the weights
        options = options | {"transform_input": model.transform_input}
    card = Card(
        name, data.classes, data.shape[0], data.name, data.shape, 0, commit(), options,
        data_seed=cfg.data.seed,
    )  # fmt: skip
    if bare_weights:
        with config.config_errors("model.checkpoint"):
            load_state(model, Path(stem))
    elif held is not None:
        card = replace(weights.load_into(model, stem), architecture=name, options=options)
    weights.refuse_objects(model.state_dict())
    weights.refuse_non_finite(model.state_dict(), f"{name} cannot be compressed")
    return model, card


def _read(cfg: DictConfig, data: DataSet, options: dict[str, Any]) -> tuple[nn.Module, Card]:
    """A network of the zoo from its checkpoint, by default the shipped one."""
    name, stem = cfg.model.name, checkpoint_of(cfg) or shipped(cfg)
    model, card = weights.load(stem)
    if card.architecture != name:
        raise CheckpointError(
            f"{stem} holds a {card.architecture}, asked for model.name={name}; "
            "give the checkpoint of that network"
        )
    _check_options(options, card, stem)
    taken = inspect.signature(zoo.MODELS[name]).parameters if name in zoo.MODELS else options
    if unknown := [key for key in options if key not in taken and "options" not in taken]:
        raise config.ConfigError(f"{name} has no option {unknown[0]!r}; it has {', '.join(taken)}")
    if card.shape != data.shape:
        raise CheckpointError(
            f"{stem} was trained on images of shape {card.shape}, those of {data.name} are {data.shape}; "
            f"choose data={card.data}, or the checkpoint of a network trained on {data.name}"
        )
    return model, card


def checkpoint_of(cfg: DictConfig) -> str | None:
    """``model.checkpoint``; a file of weights with a card beside it is the stem of both."""
    given: str | None = cfg.model.checkpoint
    stem = (given or "").removesuffix(".safetensors")
    return stem if stem != (given or "") and Path(f"{stem}.json").is_file() else given


def _labelled(cfg: DictConfig, model: nn.Module, data: DataSet) -> DataSet:
    """Photographs in no class folders, labelled by what the dense network says; other data as they are."""
    if data.name != "photos" or cfg.get("metric") or photos.labelled(Path(cfg.data.root), data.classes):
        return data
    print("the photographs have no labels: accuracies are agreement with the dense network", flush=True)
    return photos.labelled_by(model, data)


def shipped(cfg: DictConfig) -> Path:
    """The stem of the checkpoint that ships for a network and its data.

    Raises:
        CheckpointError: if there is none, or that network was built with other options.
    """
    name, options = cfg.model.name, config.plain(cfg.model.options)
    stem = weights.shipped(f"{name}-{cfg.data.name}".replace("/", "-"))
    _check_options(options, weights.read_card(stem), stem)
    return stem


def _check_options(options: Mapping[str, Any], card: Card, stem: Path | str) -> None:
    """Refuse options other than those that a checkpoint's network was built with.

    ``target``, where the code lies, and ``weights``, which are replaced, may differ.
    """
    name = card.architecture
    parameters = inspect.signature(zoo.MODELS[name]).parameters if name in zoo.MODELS else {}
    has = {key: each.default for key, each in parameters.items()} | card.options
    for key, asked in options.items():
        if key not in ("target", "weights") and key in has and has[key] != asked:
            raise CheckpointError(
                f"model.options.{key} is {asked}, but the network of {Path(stem).name} has {has[key]}: leave "
                "it out, or train another with experiments.pretrain and give its path as model.checkpoint"
            )


def shape_of(cfg: DictConfig) -> tuple[tuple[int, int, int], int]:
    """C, H, W of an image and the number of classes, as given or from the data set.

    Raises:
        DataError: for data that does not say its shape, or an image folder without classes.
    """
    data, shape, classes = cfg.data, cfg.shape, cfg.classes
    if data.name == "imagefolder":
        shape = shape or (3, data.options.size, data.options.size)
        if classes is None:
            classes = len(classes_of(Path(data.root) / "train"))
    elif data.name in SPECS:
        shape, classes = shape or SPECS[data.name].shape, classes or SPECS[data.name].classes
    elif shape is None or classes is None:
        raise DataError(
            f"data={data.name} does not say the images' shape: give shape=[C,H,W] and classes=NUMBER"
        )
    channels, height, width = shape
    return (channels, height, width), classes


def network_of(cfg: DictConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network that a configuration names, with random weights unless ``model.checkpoint`` is given.

    Raises:
        ModelError, CheckpointError: for what is unknown or does not fit.
    """
    options = config.plain(cfg.model.options)
    model = zoo.build(cfg.model.name, classes=classes, in_channels=shape[0], **options)
    if is_state(cfg.model.checkpoint):
        load_state(model, Path(cfg.model.checkpoint))
    elif cfg.model.checkpoint is not None:
        model, _ = weights.restore(model, cfg.model.checkpoint)
    zoo.check(model, shape, classes)
    return model
