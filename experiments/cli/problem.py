"""Builds what a configuration names: the trained network, its data, the environment, the agent."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from agents.actor_critic import ActorCritic
from agents.episode import Agent, Environment
from amc_env import checkpoints as weights
from amc_env import latency, zoo
from amc_env.actions import SCALES
from amc_env.building import make_env
from amc_env.card import Card, CheckpointError
from amc_env.data import photos
from amc_env.data.own import OwnData
from amc_env.data.splits import SPLITS, DataSet, digest
from amc_env.env import CompressionEnv
from amc_env.execution import device_of
from amc_env.functions import function as imported
from amc_env.zoo.states import is_state, load_state
from experiments.cli import commands, config, groups, limits
from experiments.cli.datasets import load_data
from experiments.cli.signatures import is_ours
from experiments.recording.provenance import commit
from experiments.recording.record import RecordError, RunRecord

HELD_OUT = tuple(split for split in SPLITS if split != "train")

OF_SEARCH = ("model", "data", "protocol", "compressor", "env", "keep_whole", "part")
SPACES = {  # stand-ins for those of an environment, to check that an agent can be built
    "observation_space": gym.spaces.Box(0, 1, (11,), np.float32),
    "action_space": gym.spaces.Box(0, 1, (1,), np.float32),
}


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


def images_of(data: DataSet | OwnData) -> str:
    """A short hash of the images of all splits but train, in their order."""
    if isinstance(data, DataSet):
        return digest([data[split].images for split in HELD_OUT])[:16]
    return "-".join(data.fingerprint(split) for split in HELD_OUT)


def _digests(data: DataSet | OwnData) -> dict[str, str]:
    """`images_of` and, where they are a data set's, a short hash of labels and normalisation."""
    found = {"data": images_of(data)}
    if isinstance(data, DataSet) and data.name != "photos":  # whose labels may be the network's
        scale = torch.tensor([*data.mean, *data.std])
        found["labels"] = digest([*(data[split].labels for split in HELD_OUT), scale])[:16]
    return found


def check_identity(record: RunRecord, subject: Trained) -> dict[str, str]:
    """Check that network and data are those that a record was begun with.

    Returns:
        Their digests, for the record's results.

    Raises:
        RecordError: if the checkpoint has other weights by now, or the data other images.
    """
    weights_of = digest([value.cpu() for value in subject.model.state_dict().values()])
    if record.content["results"].get("weights") not in (None, weights_of):
        raise RecordError(
            f"{record.folder} was begun with other weights than the network has now: put the checkpoint "
            "back that it had, or begin again with another output=FOLDER"
        )
    return {"weights": weights_of} | check_images(record, subject.data)


def check_images(record: RunRecord, data: DataSet | OwnData) -> dict[str, str]:
    """Check that the data are those that a record was begun with.

    Returns:
        Their digests, for the record's results.

    Raises:
        RecordError: if the images, their labels or the normalisation are others by now.
    """
    known, now = record.content["results"], _digests(data)
    if known.get("data") not in (None, now["data"]):
        raise RecordError(
            f"{record.folder} was begun with other images than the data has now, and other images may be in "
            "each split: put back those that it had, or begin again with another output=FOLDER"
        )
    if known.get("labels") not in (None, now.get("labels")):
        raise RecordError(
            f"{record.folder} was begun with other labels, or another mean and std, than the data has now: "
            "put back those that it had, or begin again with another output=FOLDER"
        )
    return now


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


def check_splits(card: Card, seed: int, data: DataSet | OwnData) -> None:
    """Refuse splits in which images of the training are reward or selection images.

    A network that ships is used with other copies of its data as well, and a line says what that means.

    Args:
        card: of the network.
        seed: ``data.seed``.
        data: with these splits.

    Raises:
        CheckpointError: for another seed or other images than those of the card.
    """
    if card.data != data.name:
        return
    if card.data_seed != seed:
        raise CheckpointError(
            f"the network was trained on the splits of data.seed={card.data_seed}: with data.seed="
            f"{seed} images that it was trained on would be reward and selection images. Give that "
            "seed, or train a network with experiments.pretrain and the seed that you want"
        )
    if card.images and card.images != images_of(data):
        raise CheckpointError(
            f"the network was trained with other images of {data.name} than there are now, or in another "
            "order: images that it was trained on may be reward and selection images. Give the data that it "
            "was trained on (data.root, data.options), or train a network with experiments.pretrain"
        )
    copy = getattr(data, "copy", "")
    if not card.images and not card.compressed and card.note and copy and card.note != copy:
        print(
            f"the network was trained on {card.note} of {data.name}, and these are {copy}, in another order: "
            "it has seen most of these reward and selection images, and accuracies on them are too high; "
            "those on test are right. For your own: python -m experiments.pretrain"
        )


def foresee(cfg: DictConfig) -> None:
    """Find errors of a search before its folder is made, in seconds and without reading data.

    Raises:
        ModelError, CheckpointError, DeviceError, LatencyError, ConfigError: for what is missing, unknown or
            does not fit.
    """
    name = cfg.model.name
    device_of(cfg.env.device)
    if cfg.protocol.latency is not None:
        latency.read(cfg.protocol.latency)
    if name != "import" and cfg.model.checkpoint is None and not cfg.model.options.get("weights"):
        shipped(cfg)
    given = checkpoint_of(cfg)
    if given and not is_state(given) and weights.read_card(given).compressed:
        raise CheckpointError(
            f"{given} is compressed already, and a checkpoint holds one plan: search from the dense network, "
            "or in rounds with experiments.policies stages=[...]"
        )
    if is_ours(cfg.agent["_target_"]):
        offered = config.accepted(cfg.agent, decisions=2)
        config.instantiate(cfg.agent, **SPACES, **offered, seed=0)


def searched(run: Path, target: str | None) -> DictConfig:
    """The configuration of a search, read from its record.

    A record is data and names no code to run: only the settings in `OF_SEARCH` are taken, each of its type in
    the schema, and the function that builds a network of the user's own has to be given again.

    Args:
        run: the folder of the search.
        target: ``module:function``, for a search with ``model=import``.

    Raises:
        ConfigError: when that function is needed and not given, or for settings that no search has.
    """
    found = RunRecord.read(run).content["config"]
    parts = {key: found[key] for key in OF_SEARCH if key in found}
    if "${" in json.dumps(parts):
        raise config.ConfigError(f"the record in {run} has a ${{...}} in it, which is read from no record")
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(commands.SearchConfig), parts)
    except OmegaConfBaseException as error:
        raise config.ConfigError(f"the record in {run} has no settings of a search: {error}") from error
    assert isinstance(cfg, DictConfig)
    if found.get("metric") or cfg.data.name == "import":
        raise config.ConfigError(
            f"{run} was measured by functions of your own, which a record does not name as code to run: "
            "give the search's command again, with the finetune.epochs that you want and another "
            "output=FOLDER"
        )
    if cfg.model.name == "import":
        if target is None:
            raise config.ConfigError(
                f"{run} is of a network of your own: give the function that builds it, as the search had it: "
                f"target={cfg.model.options.get('target')}"
            )
        cfg.model.options.target = target
    cfg.env.scale = cfg.env.scale or "relative"  # no agent acts on what is read
    for key, path in (("model.checkpoint", cfg.model.checkpoint), ("data.root", cfg.data.root)):
        if path is not None and not any(Path(f"{path}{ending}").exists() for ending in ("", *limits.STEM)):
            raise config.ConfigError(
                f"{run} is of a search with {key}={path}, which is not there: start this in the folder where "
                "the search was started, or put back what it read"
            )
    return cfg


def environment(cfg: DictConfig, subject: Trained) -> CompressionEnv:
    """The environment that the groups protocol, compressor and env describe."""
    settings = config.plain(cfg.protocol) | config.plain(cfg.compressor) | config.plain(cfg.env)
    settings |= {key: config.plain(cfg)[key] for key in groups.OWN if key in cfg}
    if settings.get("metric") is not None:
        settings["metric"] = imported(settings["metric"], "metric")
    settings["scale"] = scale_of(cfg)
    with config.config_errors("the environment"):
        return make_env(subject.model, subject.data, **settings)


def scale_of(cfg: DictConfig) -> str:
    """The scale of actions: ``env.scale``, else the agent's own, else the relative one."""
    asked = cfg.env.scale
    return str(asked or getattr(config.located(cfg.agent["_target_"]), "scale", "relative"))


def build_agent(node: DictConfig | Mapping[str, Any], env: Environment, *, seed: int) -> Agent:
    """The agent that a node composed from the command line names, for an environment.

    Raises:
        ConfigError: for an agent that needs another scale than the environment has.
        UpdatesError: for an agent that would never learn.
    """
    task: Any = env.unwrapped
    decisions = len(task.graph.groups)
    offered = config.accepted(node, decisions=decisions)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    agent: Agent = config.instantiate(node, **spaces, **offered, seed=seed)
    if isinstance(settings := getattr(agent, "settings", None), ActorCritic):
        settings.updates(decisions)
    wanted = getattr(agent, "scale", None)
    if wanted is not None and type(task.scale) is not type(SCALES[wanted](1.0)):
        raise config.ConfigError(f"the actions of {node['_target_']} are {wanted}: leave env.scale out")
    return agent
