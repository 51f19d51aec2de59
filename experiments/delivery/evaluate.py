"""Accuracy of a network that is read from a checkpoint, an ``.onnx`` or a ``.pt2``."""

from pathlib import Path

from omegaconf import DictConfig

from amc_env.evaluator import accuracy
from experiments.cli.datasets import load_data
from experiments.delivery.runtimes import read


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the top-1 accuracy on the split, with its standard error."""
    network = read(cfg.checkpoint, cfg.target, trust=cfg.trust)
    data = load_data(cfg.data)
    network.check(data.name, data.shape, data.classes)
    top1, images = accuracy(network.module(), data, cfg.split), len(data[cfg.split])
    error = (top1 * (1 - top1) / images) ** 0.5
    what = network.source.name
    if network.card is not None:
        what = f"{'dense' if network.card.plan is None else 'compressed'} {network.card.architecture}"
    where = f"{images:,} {cfg.split} images of {data.name}"
    print(f"{what} ({network.runtime}) on {where}: {top1:.2%} ± {error:.2%}")
