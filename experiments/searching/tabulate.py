"""Makes the tables of the tabular benchmark: trains small networks and evaluates every plan of each.

The checkpoint that a table was made from is written beside it. A table takes a minute or two of one thread.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from amc_env import checkpoints as weights
from amc_env import tabular, zoo
from amc_env.card import Card as WeightsCard
from amc_env.compressors.surgery import Surgeon
from amc_env.data import splits as datasets
from amc_env.data.specs import SPECS
from amc_env.data.splits import DataSet, Split
from amc_env.data.tensors import from_tensors
from amc_env.evaluator import accuracies
from amc_env.execution import evaluating
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.metrics import Evaluation, mean, per_image
from amc_env.plan import Plan
from amc_env.repair.elimination import orders
from amc_env.repair.moments import Moments, collect
from amc_env.repair.sensitivity import errors
from amc_env.tabular import COUNTED, REAL, Card, Levels, Table
from amc_env.zoo.tiny import TinyCNN
from experiments.cli.config import ConfigError
from experiments.recording.lock import alone
from experiments.recording.progress import Meter
from experiments.recording.provenance import commit
from experiments.training.loop import train
from experiments.training.recipe import Recipe

POINTS = 10  # positions sampled in each calibration image


@dataclass(frozen=True)
class Source:
    """The ingredients of a table."""

    architecture: str
    data: str
    held_out: tuple[int, int, int]  # calibration, reward and selection images
    reward_images: int
    recipe: Recipe
    levels: int = 8  # choices of each decision
    options: Mapping[str, Any] = field(default_factory=dict)  # of the architecture
    train_images: int | None = None  # the first of the train split; None for all


def digits(levels: int, block: str, widths: Sequence[int], strides: Sequence[int]) -> Source:
    """700 of the 1,500 official training images measure the rewards, so 400 are left to train."""
    options = {"widths": list(widths), "strides": list(strides), "block": block}
    recipe = Recipe(epochs=40, shift=1, batch_size=64)
    return Source("tiny", "digits", (200, 700, 200), 700, recipe, levels, options)


def fashion(levels: int, block: str, widths: Sequence[int], strides: Sequence[int]) -> Source:
    """Behind a 7x7 stem, on 8,000 training images."""
    options = {"widths": list(widths), "strides": list(strides), "block": block, "stem": 7}
    recipe = Recipe(epochs=8)
    return Source("tiny", "fashion_mnist", (1000, 1000, 1000), 1000, recipe, levels, options, 8000)


def cifar(levels: int, block: str, widths: Sequence[int], strides: Sequence[int]) -> Source:
    """Behind a 7x7 stem, on 15,000 training images."""
    options = {"widths": list(widths), "strides": list(strides), "block": block, "stem": 7}
    recipe = Recipe(epochs=10)
    return Source("tiny", "cifar10", (1000, 1000, 1000), 1000, recipe, levels, options, 15_000)


SOURCES = {
    # To develop on.
    "digits": Source("digits_cnn", "digits", (200, 700, 200), 700, Recipe(epochs=40, shift=1)),
    # To report on.
    "fashion": Source("fashion_cnn", "fashion_mnist", (2000, 4000, 5000), 1000, Recipe(epochs=15)),
    # To learn across networks.
    "digits_plain6": digits(4, "plain", (8, 16, 16, 24, 24, 32), (1, 2, 1, 1, 2, 1)),
    "digits_residual": digits(6, "residual", (12, 12, 24, 24), (1, 1, 2, 1)),
    "digits_depthwise7": digits(3, "depthwise", (12, 12, 24, 24, 24, 48, 48), (1, 1, 2, 1, 1, 2, 1)),
    "digits_grouped6": digits(4, "grouped", (16, 16, 24, 24, 32, 48), (1, 1, 2, 1, 2, 1)),
    "fashion_plain5": fashion(6, "plain", (24, 12, 24, 12, 24), (4, 1, 1, 2, 1)),
    "fashion_plain8": fashion(3, "plain", (12, 12, 12, 24, 24, 24, 24, 48), (4, 1, 1, 2, 1, 1, 2, 1)),
    "fashion_residual": fashion(4, "residual", (12, 12, 16, 24), (4, 1, 1, 2)),
    "fashion_depthwise6": fashion(4, "depthwise", (16, 24, 24, 32, 48, 64), (4, 1, 1, 2, 1, 2)),
    "fashion_grouped5": fashion(6, "grouped", (12, 24, 24, 48, 48), (4, 1, 2, 1, 2)),
    "cifar_plain6": cifar(4, "plain", (24, 24, 16, 32, 24, 48), (4, 1, 1, 2, 1, 2)),
    "cifar_plain9": cifar(3, "plain", (12, 12, 12, 12, 24, 24, 24, 24, 48), (4, 1, 1, 1, 2, 1, 1, 2, 1)),
    "cifar_residual": cifar(4, "residual", (16, 16, 24, 32), (4, 1, 2, 2)),
    "cifar_depthwise7": cifar(3, "depthwise", (12, 24, 36, 36, 36, 48, 60), (4, 1, 1, 2, 1, 1, 2)),
    "cifar_grouped6": cifar(4, "grouped", (16, 32, 24, 32, 48, 32), (4, 1, 1, 2, 1, 1)),
}


def main(cfg: DictConfig, folder: Path) -> None:
    """Make the named table, or all missing ones; a second process waits."""
    with alone(tabular.TABLES, wait=True, otherwise="make tables from a clone of the repository"):
        _make(cfg)


def _make(cfg: DictConfig) -> None:
    missing = [name for name, source in SOURCES.items() if not whole(name, source)]
    if cfg.table != "missing" and cfg.table not in SOURCES:
        raise ConfigError(f"no table {cfg.table!r}; there are {', '.join(sorted(SOURCES))}, and missing")
    for name in missing if cfg.table == "missing" else [cfg.table]:
        card = tabulate(name, SOURCES[name])
        size = (tabular.TABLES / f"{name}.npz").stat().st_size
        print(f"{name}: {card.sha256[:12]}, {size:,} bytes", flush=True)


def whole(name: str, source: Source, folder: Path = tabular.TABLES) -> bool:
    """Whether there is an undamaged table of this network."""
    try:
        card = tabular.load(name, folder).card
    except tabular.TableError:
        return False
    return (card.architecture, card.options, card.levels) == (
        source.architecture, dict(source.options), source.levels,
    )  # fmt: skip


def tabulate(name: str, source: Source) -> Card:
    """Train, evaluate every plan, write the table; returns its card."""
    data = data_of(source.data, source.held_out, source.train_images)
    model, trained = network_of(name, source, data, weights.SHIPPED)
    graph = trace(model, data.shape)
    card = Card(
        architecture=source.architecture,
        options=dict(source.options),
        levels=source.levels,
        order="elimination",
        classes=data.classes,
        shape=data.shape,
        data=data.name,
        held_out=source.held_out,
        checkpoint=f"tabular-{name}",
        checkpoint_sha256=trained.sha256,
        calibration_images=source.held_out[0],
        points=POINTS,
        seed=0,
        n_images=source.reward_images,
        graph=graph.hash,
        commit=commit(),
    )
    moments = moments_of(card, model, data)
    ranked = orders(model, graph, moments)
    levels = Levels(graph, ranked, source.levels)
    levels.errors = errors(model, graph, moments, ranked, levels.choices)
    found = []
    plans = tabular.plans(levels)
    with Meter("plans", len(plans)) as meter:
        for one in evaluations(model, graph, moments, data["reward"].head(card.n_images), data, plans):
            found.append(one)
            meter.update(len(found))
    return tabular.save(name, Table(card, levels, columns(found, levels)))


def network_of(name: str, source: Source, data: DataSet, folder: Path) -> tuple[torch.nn.Module, WeightsCard]:
    """Train a table's network and write its checkpoint; returns network and card."""
    options = dict(source.options)
    model = zoo.build(
        source.architecture, classes=data.classes, in_channels=data.shape[0], seed=source.recipe.seed,
        **options,
    )  # fmt: skip
    train(model, data, source.recipe)
    model.eval()
    trained = weights.save(
        folder / f"tabular-{name}",
        model,
        WeightsCard(
            architecture=source.architecture,
            classes=data.classes,
            in_channels=data.shape[0],
            data=data.name,
            shape=data.shape,
            seed=source.recipe.seed,
            commit=commit(),
            options=options,
            recipe=asdict(source.recipe),
            accuracy=accuracies(model, data, data.splits),
            note=f"of the tabular benchmark; held out: {source.held_out}",
        ),
    )
    return model, trained


def moments_of(card: Card, model: torch.nn.Module, data: DataSet) -> Moments:
    """The moments that a table's network is repaired from."""
    graph = trace(model, card.shape)
    return collect(model, graph, data, images=card.calibration_images, points=card.points, seed=card.seed)


def evaluations(
    model: torch.nn.Module, graph: Graph, moments: Moments, split: Split, data: DataSet, plans: Sequence[Plan]
) -> Iterator[Evaluation]:
    """The metrics of plans, as by an `Evaluator`, running only the parts that differ from the last plan.

    A part of the network runs again if a group has changed that it or an earlier part touches. In the order
    of `tabular.plans` this is mostly the last part alone.

    Args:
        model: a `TinyCNN`.
        graph: of it.
        moments: of it.
        split: the images to measure on.
        data: normalises them.
        plans: in an order in which later groups change more often.
    """
    surgeon = Surgeon(model, graph, fold=True)
    images = data.normalise(split.images)
    depth = reach(graph, len(model.get_submodule("features")))  # type: ignore[arg-type]
    known: list[tuple[Any, Tensor]] = []  # of each part, what its output depends on, and its output
    dense = None
    for plan in [Plan.dense(graph), *plans]:
        network = surgeon.cut(plan, moments.solve)
        assert isinstance(network, TinyCNN)
        x = images
        with evaluating(network):
            for at, part in enumerate(network.features):
                key = plan.kept[: depth[at]]
                if at < len(known) and known[at][0] == key:
                    x = known[at][1]
                else:
                    x = part(x)
                    known[at:] = [(key, x)]
            logits = network.classifier(network.pool(x).flatten(1)).float()
        if dense is None:
            dense = F.log_softmax(logits, dim=1)
            continue
        yield mean(per_image(logits, split.labels, dense), "reward")


def reach(graph: Graph, parts: int) -> list[int]:
    """For each part of a `TinyCNN`, the number of groups, in order, that it and earlier parts depend on."""
    found = [0] * parts
    for layer in graph.layers:
        if layer.name.startswith("features."):
            touched = graph.group_of[np.concatenate([layer.reads, layer.writes])].max() + 1
            found[int(layer.name.split(".")[1])] = max(found[int(layer.name.split(".")[1])], int(touched))
    reached: list[int] = np.maximum.accumulate(found).tolist()
    return reached


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


def data_of(name: str, held_out: tuple[int, int, int], train_images: int | None = None) -> DataSet:
    """A data set with other numbers of held-out and of training images than by default.

    Args:
        name: of the data set.
        held_out: calibration, reward and selection images.
        train_images: the first of the train split; None for all.
    """
    data = _held_out(name, held_out)
    return replace(data, splits={**data.splits, "train": data["train"].head(train_images)})


def _held_out(name: str, held_out: tuple[int, int, int]) -> DataSet:
    """Splits drawn anew from all images but those of test.

    On CIFAR-10 these have the calibration images twice, once from the train split, so that 2 to 3 % of the
    reward, selection and calibration images are also trained on. The tables that ship are of these splits.
    """
    spec = SPECS[name]
    if held_out == spec.held_out:
        return datasets.load(name)
    whole = datasets.load(name)
    images = torch.cat([whole[split].images for split in datasets.SPLITS[:-1]])
    labels = torch.cat([whole[split].labels for split in datasets.SPLITS[:-1]])
    return from_tensors(
        images, labels, whole["test"].images, whole["test"].labels,
        seed=0, name=name, classes=spec.classes, held_out=held_out, mean=spec.mean, std=spec.std,
        flip=spec.flip,
    )  # fmt: skip
