"""Accuracy of networks on a named split."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from amc_env.data import DataSet


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode, no gradients; every submodule's mode is restored on the way out."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module, training in modes.items():
            module.training = training


def accuracy(model: nn.Module, data: DataSet, split: str, batch_size: int = 500) -> float:
    """Top-1 accuracy in [0, 1] of a model on a split."""
    correct = 0
    with evaluating(model):
        for images, labels in data.batches(split, batch_size):
            correct += int((model(images).argmax(1) == labels).sum())
    return correct / len(data[split])
