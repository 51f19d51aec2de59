"""Accuracy of networks on a named split."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.surgery import Solve, Surgeon
from amc_env.data import DataSet
from amc_env.graph import Graph
from amc_env.modes import evaluating
from amc_env.plan import Plan

ACTIVATIONS = 2**23  # bytes of one layer's input and output in a batch: beyond, they leave the cache

__all__ = ["Evaluation", "EvaluationError", "Evaluator", "accuracy", "evaluating"]


class EvaluationError(ArithmeticError):
    """A network whose outputs are not finite."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of one network on the first ``n_images`` of a split.

    Attributes:
        top1: share of images, in [0, 1], whose label has the largest logit.
        top5: share whose label is among the five largest; equals 1 where there are at most five classes.
        loss: mean cross-entropy in nats.
        agreement: share of images on which the largest logit is that of the dense network.
        kl: mean divergence KL(dense, this) of the predicted distributions in nats.
    """

    top1: float
    top5: float
    loss: float
    agreement: float
    kl: float
    n_images: int
    split: str

    @property
    def std_error(self) -> float:
        """Binomial standard error of ``top1``."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.n_images)


Repair = Callable[[nn.Module, NDArray[np.bool_]], None]
"""(cut network, ``(atoms,)`` which atoms stayed) -> None."""


class Evaluator:
    """Evaluates plans of one dense network on one split.

    Args:
        model: the dense network; copied, not changed.
        graph: of it.
        data: the split is read from here once.
        solve: repairs the layers that lose inputs.
        repair: repairs the whole cut network, its batch norms folded, in place; see `sequential.Sequential`.
        split: name of the split.
        images: how many of its images; None for all.
        batch_size: images in one forward pass; None for what runs fastest.

    ``seconds`` adds up what cutting and forward passes took, ``forwards`` counts images sent through a
    network, and ``evaluations`` plans that were not answered from memory.

    Raises:
        EvaluationError: when the dense network's logits are not finite.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, data: DataSet, solve: Solve, *, repair: Repair | None = None,
        split: str = "reward", images: int | None = None, batch_size: int | None = None,
    ) -> None:  # fmt: skip
        self.split = split
        self.seconds = {"cut": 0.0, "forward": 0.0}
        self.forwards = 0
        self.evaluations = 0
        self._surgeon = Surgeon(model, graph, fold=True)
        self._graph, self._solve, self._repair = graph, solve, repair
        self._batches = [
            (_channels_last(batch), labels)
            for batch, labels in data.batches(split, batch_size or _batch_size(graph), images)
        ]
        self._memo: dict[str, Evaluation] = {}
        self._dense = self._logits(self._surgeon.cut(Plan.dense(graph)))
        if not all(bool(logits.isfinite().all()) for logits in self._dense):
            raise EvaluationError(f"the logits of the dense network are not finite: {culprit(model)}")

    def __call__(self, plan: Plan) -> Evaluation:
        """The evaluation of a plan; a plan that was seen before is not run again.

        Raises:
            EvaluationError: when the cut network's logits are not finite.
        """
        if plan.hash not in self._memo:
            self._memo[plan.hash] = self._evaluate(plan)
        return self._memo[plan.hash]

    def _evaluate(self, plan: Plan) -> Evaluation:
        start = time.perf_counter()
        network = self._surgeon.cut(plan, self._solve)
        if self._repair is not None:
            self._repair(network, self._graph.mask(plan.kept))
        middle = time.perf_counter()
        logits = self._logits(network)
        self.seconds["cut"] += middle - start
        self.seconds["forward"] += time.perf_counter() - middle
        self.evaluations += 1
        if not all(bool(part.isfinite().all()) for part in logits):
            raise EvaluationError(
                f"the logits of the network under plan {plan.hash} are not finite: {culprit(network)}"
            )
        return measure(logits, [labels for _, labels in self._batches], self._dense, self.split)

    def _logits(self, network: nn.Module) -> list[Tensor]:
        with evaluating(network):
            self.forwards += sum(len(labels) for _, labels in self._batches)
            return [network(images) for images, _ in self._batches]


def measure(logits: list[Tensor], labels: list[Tensor], dense: list[Tensor], split: str) -> Evaluation:
    """An `Evaluation` from batches: logits ``(N, classes)``, labels ``(N,)``, the dense network's logits."""
    ours, truth, theirs = torch.cat(logits), torch.cat(labels), torch.cat(dense)
    ranked = ours.topk(min(5, ours.size(1)), dim=1).indices
    hits = ranked == truth[:, None]
    reference = F.log_softmax(theirs, dim=1)
    count = len(truth)
    return Evaluation(
        top1=int(hits[:, 0].sum()) / count,
        top5=int(hits.any(1).sum()) / count,
        loss=F.cross_entropy(ours, truth).item(),
        agreement=int((ranked[:, 0] == theirs.argmax(1)).sum()) / count,
        kl=F.kl_div(F.log_softmax(ours, dim=1), reference, reduction="batchmean", log_target=True).item(),
        n_images=count,
        split=split,
    )


def _batch_size(graph: Graph) -> int:
    """As many images as keep the widest layer within `ACTIVATIONS`, from 8 to 100."""
    floats = max(
        layer.c_in * math.prod(layer.in_size) + layer.c_out * math.prod(layer.out_size)
        for layer in graph.layers
    )
    return max(8, min(100, ACTIVATIONS // (4 * floats)))


def _channels_last(images: Tensor) -> Tensor:
    """A copy whose strides say so even where there is one channel, which is what convolutions go by."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def culprit(model: nn.Module) -> str:
    """Where a network whose logits are not finite goes wrong: its first damaged tensor."""
    for name, value in model.state_dict().items():
        if not bool(value.isfinite().all()):
            return f"{name} holds NaN or infinity; take its checkpoint again"
    return "its weights are finite, so an activation overflows; check the scale of the images and weights"


def accuracy(model: nn.Module, data: DataSet, split: str, batch_size: int = 500) -> float:
    """Top-1 accuracy in [0, 1] of a model on a split."""
    correct = 0
    with evaluating(model):
        for images, labels in data.batches(split, batch_size):
            correct += int((model(images).argmax(1) == labels).sum())
    return correct / len(data[split])
