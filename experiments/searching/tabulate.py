"""Makes a table of the tabular benchmark: trains its small network and evaluates each of the 32,768 plans.

The checkpoint that the table was made from is written beside it. It takes minutes of one thread.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from amc_env import checkpoints as weights
from amc_env import tabular, zoo
from amc_env.compressors.channels import magnitude_orders
from amc_env.compressors.networks import CutNetworks
from amc_env.data import splits as datasets
from amc_env.data.splits import DataSet
from amc_env.evaluator import Evaluation, Evaluator, accuracy
from amc_env.graph.trace import trace
from amc_env.repair.moments import collect
from amc_env.tabular import COUNTED, REAL, Card, Levels, Table
from experiments.cli.config import ConfigError
from experiments.recording.progress import Meter
from experiments.recording.record import commit
from experiments.training.loop import train
from experiments.training.recipe import Recipe

POINTS = 10  # positions sampled in each calibration image


@dataclass(frozen=True)
class Source:
    """What a table is made of."""

    architecture: str
    data: str
    held_out: tuple[int, int, int]  # calibration, reward and selection images
    reward_images: int
    recipe: Recipe


SOURCES = {
    # To develop on. 700 of the 1,500 official training images measure the rewards, so 400 are left to train.
    "digits": Source("digits_cnn", "digits", (200, 700, 200), 700, Recipe(epochs=40, shift=1)),
    # To report on.
    "fashion": Source("fashion_cnn", "fashion_mnist", (2000, 4000, 5000), 1000, Recipe(epochs=15)),
}


def main(cfg: DictConfig, folder: Path) -> None:
    """Make the table that is named."""
    if cfg.table not in SOURCES:
        raise ConfigError(f"no table {cfg.table!r}; there are {', '.join(sorted(SOURCES))}")
    card = tabulate(cfg.table, SOURCES[cfg.table])
    print(f"{cfg.table}: {card.sha256[:12]}, {(tabular.TABLES / f'{cfg.table}.npz').stat().st_size:,} bytes")


def tabulate(
    name: str, source: Source, *, tables: Path = tabular.TABLES, checkpoints: Path | None = None
) -> Card:
    """Train, evaluate every plan, write the table; returns its card."""
    checkpoints = weights.SHIPPED if checkpoints is None else checkpoints
    data = data_of(source.data, source.held_out)
    model = zoo.build(
        source.architecture, classes=data.classes, in_channels=data.shape[0], seed=source.recipe.seed
    )
    train(model, data, source.recipe)
    model.eval()
    checkpoint = f"tabular-{name}"
    trained = weights.save(
        checkpoints / checkpoint,
        model,
        weights.Card(
            architecture=source.architecture,
            classes=data.classes,
            in_channels=data.shape[0],
            data=data.name,
            shape=data.shape,
            seed=source.recipe.seed,
            commit=commit(),
            recipe=asdict(source.recipe),
            accuracy={split: accuracy(model, data, split) for split in data.splits},
            note=f"of the tabular benchmark; held out: {source.held_out}",
        ),
    )
    graph = trace(model, data.shape)
    levels = Levels(graph, magnitude_orders(model, graph))
    card = Card(
        architecture=source.architecture,
        classes=data.classes,
        shape=data.shape,
        data=data.name,
        held_out=source.held_out,
        checkpoint=checkpoint,
        checkpoint_sha256=trained.sha256,
        calibration_images=source.held_out[0],
        points=POINTS,
        seed=0,
        n_images=source.reward_images,
        graph=graph.hash,
        commit=commit(),
    )
    evaluator = evaluator_of(card, model, data)
    found = []
    plans = tabular.plans(levels)
    with Meter("plans", len(plans)) as meter:
        for index, plan in enumerate(plans):
            found.append(evaluator(plan))
            meter.update(index + 1)
    return tabular.save(name, Table(card, levels, columns(found, levels)), tables)


def evaluator_of(card: Card, model: torch.nn.Module, data: DataSet) -> Evaluator:
    """The evaluator whose answers a table holds."""
    graph = trace(model, card.shape)
    moments = collect(model, graph, data, images=card.calibration_images, points=card.points, seed=card.seed)
    return Evaluator(CutNetworks(model, graph, moments.solve), data, images=card.n_images)


def columns(evaluations: Sequence[Evaluation], levels: Levels) -> dict[str, np.ndarray]:
    """The columns of a table, from the evaluations of `amc_env.tabular.plans`."""
    shape = tuple(len(choices) for choices in levels.choices)
    made: dict[str, np.ndarray] = {}
    for name in COUNTED:
        images = [round(getattr(one, name) * one.n_images) for one in evaluations]
        made[name] = np.array(images, np.uint16).reshape(shape)
    for name in REAL:
        made[name] = np.array([getattr(one, name) for one in evaluations], np.float32).reshape(shape)
    return made | {name: cost.astype(np.int32).reshape(shape) for name, cost in tabular.costs(levels).items()}


def data_of(name: str, held_out: tuple[int, int, int]) -> DataSet:
    """A data set whose official training images are held out in other numbers than by default."""
    spec = datasets.SPECS[name]
    if held_out == spec.held_out:
        return datasets.load(name)
    whole = datasets.load(name)
    images = torch.cat([whole[split].images for split in datasets.SPLITS[:-1]])
    labels = torch.cat([whole[split].labels for split in datasets.SPLITS[:-1]])
    return datasets.from_tensors(
        images, labels, whole["test"].images, whole["test"].labels,
        seed=0, name=name, classes=spec.classes, held_out=held_out, mean=spec.mean, std=spec.std,
        flip=spec.flip,
    )  # fmt: skip
