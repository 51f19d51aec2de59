"""The metrics of plans on a named split."""

import math
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.networks import Networks
from amc_env.data.splits import REPORTED, DataSet
from amc_env.execution import device_in, evaluating
from amc_env.graph.structure import Graph
from amc_env.metrics import Evaluation, EvaluationError, Images, mean, per_image
from amc_env.plan import Plan

ACTIVATIONS = {"cpu": 2**23, "cuda": 2**30}  # bytes of a layer in a batch, in and out; a CPU caches them
AT_MOST = {"cpu": 50, "cuda": 5000}  # images in a batch; a GPU is busy with many
AT_ONCE = {
    "cpu": 50 * 3 * 32 * 32,
    "cuda": 500 * 3 * 32 * 32,
}  # numbers in a batch of `logits`; a CPU caches them


class Evaluator:
    """Evaluates plans of one dense network on one split, and caches each plan's metrics.

    Args:
        networks: make the network of each plan.
        data: the split is read from here once.
        split: name of the split.
        images: number of its images; None for all.

    Attributes:
        seconds: spent so far on cutting (``cut``) and on forward passes (``forward``).
        forwards: images sent through networks so far, including the dense one.
        evaluations: networks cut so far.

    Raises:
        EvaluationError: when the dense network's logits are not finite.
    """

    def __init__(
        self,
        networks: Networks,
        data: DataSet,
        *,
        split: str = "reward",
        images: int | None = None,
    ) -> None:
        self.split = split
        self.seconds = {"cut": 0.0, "forward": 0.0}
        self.forwards = self.evaluations = 0
        self._networks, device = networks, networks.device
        count = len(data[split].head(images))
        size = _batch_size(networks.graph, device.type, count)
        layout = _channels_last if networks.graph.channels_last else torch.Tensor.contiguous
        self._batches = [
            (layout(batch).to(device, non_blocking=True), labels.to(device, non_blocking=True))
            for batch, labels in data.batches(split, size, images)
        ]
        self._known: dict[str, Evaluation] = {}  # by hash of the plan
        dense = networks.network(Plan.dense(networks.graph))
        self._dense = [F.log_softmax(logits, dim=1) for logits in self._logits(dense, "the dense network")]

    def __call__(self, plan: Plan) -> Evaluation:
        """The metrics of a plan.

        Raises:
            PlanError: for a plan of another network.
            EvaluationError: when the compressed network's logits are not finite.
        """
        if plan.hash not in self._known:
            self._known[plan.hash] = self._evaluate(plan)
        return self._known[plan.hash]

    def _evaluate(self, plan: Plan) -> Evaluation:
        start = time.perf_counter()
        network = self._networks.network(plan)
        cut = time.perf_counter()
        logits = self._logits(network, f"the network under plan {plan.hash}")
        measured: list[Images] = [
            per_image(of_batch, labels, dense)
            for of_batch, (_, labels), dense in zip(logits, self._batches, self._dense, strict=True)
        ]
        self.evaluations += 1
        self.seconds["cut"] += cut - start
        self.seconds["forward"] += time.perf_counter() - cut
        return mean(np.concatenate(measured), self.split)

    def _logits(self, network: nn.Module, name: str) -> list[Tensor]:
        """``(n, classes)`` float32 of each batch."""
        with evaluating(network):
            found = [network(images).float() for images, _ in self._batches]
        if not all(bool(logits.isfinite().all()) for logits in found):
            raise EvaluationError(f"the logits of {name} are not finite: {culprit(network)}")
        self.forwards += sum(len(logits) for logits in found)
        return found


def _batch_size(graph: Graph, device: str, images: int) -> int:
    """The batch size, from 8 to `AT_MOST`, that keeps the widest layer within `ACTIVATIONS`.

    Images are distributed so that the last batch is about as large as the others.
    """
    most = max(8, min(AT_MOST[device], ACTIVATIONS[device] // (4 * graph.widest)))
    return math.ceil(images / math.ceil(images / most))


def _channels_last(images: Tensor) -> Tensor:
    """A copy with channels-last strides even where there is one channel; convolutions look at the strides."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def culprit(model: nn.Module) -> str:
    """Why a network's logits are not finite: its first damaged tensor, if there is one."""
    for name, value in model.state_dict().items():
        if not bool(value.isfinite().all()):
            return f"{name} holds NaN or infinity; take its checkpoint again"
    return "its weights are finite, so an activation overflows; check the scale of the images and weights"


def logits(model: nn.Module, data: DataSet, split: str, images: int | None = None) -> Tensor:
    """A model's logits ``(N, classes)``, float32 on the CPU, on the images of a split; it runs on its device.

    Args:
        model: logits ``(N, classes)``.
        data: of the split.
        split: its name.
        images: number of the split's images; None for all.
    """
    device = device_in(model)
    size = max(8, min(500, AT_ONCE[device.type] // math.prod(data.shape)))
    with evaluating(model):
        found = [model(x.to(device)).float().cpu() for x, _ in data.batches(split, size, images)]
    return torch.cat(found)


def compared(model: nn.Module, dense: Tensor, data: DataSet, split: str) -> Images:
    """The metrics of any model on each image of a split.

    Args:
        model: logits ``(N, classes)``.
        dense: ``(n, classes)``, the `logits` of the dense network on the first n images, which are compared.
        data: of the split.
        split: its name.
    """
    found, labels = logits(model, data, split, images=len(dense)), data[split].head(len(dense)).labels
    return per_image(found, labels, F.log_softmax(dense, dim=1))


def accuracies(model: nn.Module, data: DataSet, splits: Iterable[str] = REPORTED) -> dict[str, float]:
    """`accuracy` by split."""
    return {split: accuracy(model, data, split) for split in splits}


def accuracy(model: nn.Module, data: DataSet, split: str) -> float:
    """Top-1 accuracy in [0, 1] of a model on a split; it runs on its device."""
    right = logits(model, data, split).argmax(1) == data[split].labels
    return int(right.sum()) / len(right)
