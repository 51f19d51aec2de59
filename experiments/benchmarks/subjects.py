"""What is timed: a network, its weights, its data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.data.splits import DataSet, Split, load
from experiments.benchmarks import RANDOM

CALIBRATED_ON = 500  # training images that a random network's batch norm is calibrated on


class BenchmarkError(ValueError):
    """A comparison that would not be one."""


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode, where its weights are from, and the images that it is given."""

    name: str
    model: nn.Module
    weights: str
    data: DataSet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both sides are given.

    The defaults of the images and points are the released code's: 60 batches of 50 calibration images, 10
    points in each, 3,000 reward images.
    """

    data: str = "fashion_mnist"
    target: float = 0.5  # of the MACs
    calibration_images: int = 3000
    points: int = 10
    reward_images: int = 3000
    plans: int = 4  # random ones, that both sides play
    repeats: int = 3  # of each
    episodes: int = 20  # of DDPG, every one with its updates
    threads: int = 1
    device: str = "cpu"  # of networks and solves; the released procedure's regressions are the processor's
    seed: int = 0


def subject(name: str, data: DataSet, **options: Any) -> Subject:
    """A network with the weights that ship for these data, or random ones where none do.

    Args:
        name: of the zoo.
        data: that it classifies.
        options: the builder's; with any, weights are random.
    """
    if not options:
        try:
            stem = weights.shipped(f"{name}-{data.name}")
        except weights.CheckpointError:
            options = {"width": 0.5} if name == "mobilenet_v1" else {}
        else:
            model, card = weights.load(stem)
            return Subject(name, model, f"{stem.name}, sha256 {card.sha256[:12]}", data)
    model = zoo.build(name, classes=data.classes, in_channels=data.shape[0], seed=0, **options)
    return Subject(name, calibrate(model, data), RANDOM, data)


def calibrate(model: nn.Module, data: DataSet, images: int = CALIBRATED_ON) -> nn.Module:
    """The network in evaluation mode, each batch norm with the statistics of some training images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    model.train()
    with torch.no_grad():
        for batch, _ in data.batches("train", 100, images):
            model(batch)
    return model.eval()


def images(settings: Settings) -> DataSet:
    """The data set, with as many calibration images as are asked for.

    What its calibration split lacks comes from the end of the train split; the reward split is as it ships.

    Raises:
        BenchmarkError: when the reward split has too few images.
    """
    data = load(settings.data)
    if len(data["reward"]) < settings.reward_images:
        raise BenchmarkError(
            f"{data.name} has {len(data['reward'])} reward images, not {settings.reward_images}"
        )
    missing = settings.calibration_images - len(data["calibration"])
    if missing <= 0:
        return data
    train, calibration = data["train"], data["calibration"]
    extended = Split(
        torch.cat([calibration.images, train.images[-missing:]]),
        torch.cat([calibration.labels, train.labels[-missing:]]),
    )
    return replace(data, splits={**data.splits, "calibration": extended})


def channels_last(batch: Tensor) -> Tensor:
    """A copy that lies channels last, and says so by its strides even where there is one channel."""
    return torch.empty_like(batch, memory_format=torch.channels_last).copy_(batch)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads for PyTorch and for the BLAS of NumPy and SciPy alike."""
    before = torch.get_num_threads()
    with threadpool_limits(limits=count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
