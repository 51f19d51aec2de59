"""What follows a search, tried on a random plan before it: what would fail after hours fails in seconds."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn
from torch.nn import functional as F

from amc_env.building import Task
from amc_env.compressors.constraints import unconstrained
from amc_env.data.splits import DataSet
from amc_env.layer_task import LayerTask
from experiments.delivery.export import write_onnx

BATCH = 8  # images of the batch that is trained on


class RehearsalError(ValueError):
    """A network that can be cut and evaluated, but not fine-tuned."""


def rehearse(task: Task | LayerTask, *, tuned: bool) -> None:
    """Train a small network for one batch in training mode, and export it.

    Args:
        task: whose network is cut by a random plan; it is not changed.
        tuned: whether the network that is found will be fine-tuned.

    Raises:
        RehearsalError: when a batch cannot be trained on.
        ExportError: when ONNX cannot hold the network.
    """
    small = task.rehearsal()
    if tuned:
        _train_one_batch(copy.deepcopy(small), task.data)
    with TemporaryDirectory() as folder:
        write_onnx(unconstrained(small).eval(), task.data.shape, Path(folder) / "rehearsal.onnx")


def _train_one_batch(network: nn.Module, data: DataSet) -> None:
    images, labels = next(data.batches("train", BATCH))
    device = next(network.parameters()).device
    network.train()
    try:
        F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise RehearsalError(
            f"the small network cannot be fine-tuned, its training mode fails: {error}; mend its forward, "
            "or give finetune.epochs=0 to deliver it without"
        ) from error
