"""From a configuration to what is searched: a trained network, its data, the environment."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from amc_env import zoo
from amc_env.data import DataSet
from amc_env.env import CompressionEnv
from amc_env.zoo import weights
from amc_env.zoo.weights import Card
from experiments.fetch import load_data


@dataclass(frozen=True)
class Trained:
    """A dense network, the card of its weights, and its data."""

    model: nn.Module
    card: Card
    data: DataSet


def trained(cfg: DictConfig) -> Trained:
    """The network and data that a configuration names.

    Raises:
        DataError, ModelError, CheckpointError: for what is missing, unknown or does not fit.
    """
    data = load_data(cfg.data)
    stem = cfg.model.checkpoint or weights.shipped(f"{cfg.model.name}-{cfg.data.name}")
    if cfg.model.name != "import":
        model, card = weights.load(stem)
        if card.architecture != cfg.model.name:
            raise weights.CheckpointError(
                f"{stem} holds a {card.architecture}, asked for model.name={cfg.model.name}; "
                "give the checkpoint of that network"
            )
        return Trained(model, card, data)
    options = settings(cfg.model.options)
    model = zoo.build(cfg.model.name, classes=data.classes, in_channels=data.shape[0], **options)
    return Trained(model.eval(), weights.load_into(model, stem), data)


def environment(cfg: DictConfig, subject: Trained) -> CompressionEnv:
    """The environment of a configuration's protocol, compressor and env groups."""
    return CompressionEnv(
        subject.model, subject.data, **settings(cfg.protocol), **settings(cfg.compressor), **settings(cfg.env)
    )


def settings(node: DictConfig) -> dict[str, Any]:
    """A group of the configuration as keyword arguments."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
