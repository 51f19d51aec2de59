"""Evaluates a network from a checkpoint, an ``.onnx`` or a ``.pt2``."""

from pathlib import Path

from omegaconf import DictConfig

from amc_env import packing
from amc_env.card import Card
from amc_env.checks import number_of
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet
from amc_env.evaluator import accuracy
from amc_env.execution import CPU
from amc_env.functions import function
from amc_env.metrics import binomial_error
from amc_env.scoring import batches_of, score
from experiments.cli.config import config_errors
from experiments.cli.datasets import load_data, refuse_unlabelled
from experiments.cli.identity import check_splits
from experiments.delivery.runtimes import card_beside, of_checkpoint, read, restored


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the top-1 accuracy on the split, or a metric of the user's own, with its standard error."""
    if cfg.metric is not None:
        _scored(cfg)
        return
    network = read(cfg.checkpoint, cfg.target, trust=cfg.trust)
    data = load_data(cfg.data)
    refuse_unlabelled(data, cfg.data.root)
    network.check(data.name, data.shape, data.classes)
    _check_splits(cfg, network.card or card_beside(network.source), data)
    top1, images = accuracy(network.module(), data, cfg.split), len(data[cfg.split])
    error = binomial_error(top1, images)
    what = network.source.name
    if network.card is not None:
        smaller = network.card.compressed or network.source.suffix == packing.SUFFIX
        what = f"{'compressed' if smaller else 'dense'} {network.card.architecture}"
    where = f"{number_of(images, f'{cfg.split} image')} of {data.name}"
    print(f"{what} ({network.runtime}) on {where}: {top1:.2%} ± {error:.2%}")


def _check_splits(cfg: DictConfig, card: Card | None, data: DataSet | OwnData) -> None:
    """Refuse images that the network was trained on: all splits but test, and those of photographs."""
    if card is not None and (cfg.split != "test" or cfg.data.name == "photos"):
        check_splits(card, cfg.data.seed, data)


def _scored(cfg: DictConfig) -> None:
    metric, data = function(cfg.metric, "metric"), load_data(cfg.data)
    network, card = restored(cfg.checkpoint, cfg.target)
    if isinstance(data, DataSet):
        of_checkpoint(Path(cfg.checkpoint), network, card).check(data.name, data.shape, data.classes)
    _check_splits(cfg, card, data)
    with config_errors(f"metric {cfg.metric}"):
        found = score(network, metric, batches_of(data, cfg.split, CPU), cfg.split)
    what = f"{'compressed' if card.compressed else 'dense'} {card.architecture}"
    where = f"{number_of(found.n_images, f'{cfg.split} image')} of {data.name}"
    print(f"{what} on {where}: {cfg.metric} {found.top1:.6g} ± {found.std_error:.2g}")
