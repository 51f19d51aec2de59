"""Accuracy of networks on a named split."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.masking import Masker
from amc_env.compressors.surgery import Solve, Surgeon
from amc_env.cost import macs
from amc_env.data.splits import DataSet, digest
from amc_env.execution import CPU, Execution
from amc_env.fusion import fused
from amc_env.graph.structure import Graph
from amc_env.memo import Memo
from amc_env.metrics import IMAGE, Evaluation, Images, mean, per_image
from amc_env.modes import evaluating
from amc_env.plan import Plan
from amc_env.prefix import Prefixes
from amc_env.stopping import Known, Stopping, estimate, fewest

ACTIVATIONS = {"cpu": 2**23, "cuda": 2**30}  # bytes of a layer in a batch, in and out; a CPU caches them
AT_MOST = {"cpu": 50, "cuda": 5000}  # images in a batch; a GPU is busy with many
WHOLE = 2**41  # multiplications of the dense network on all images: up to here, a GPU runs it with zeros
REMEMBERED = 2**28  # bytes of what was measured of plans; those asked for longest ago are forgotten

__all__ = ["Evaluation", "EvaluationError", "Evaluator", "accuracy", "evaluating"]


class EvaluationError(ArithmeticError):
    """A network whose outputs are not finite."""


Repair = Callable[[nn.Module, NDArray[np.bool_]], None]
"""(cut network, ``(atoms,)`` which atoms stayed) -> None."""


class Evaluator:
    """Evaluates plans of one dense network on one split.

    What was measured of a plan's images is remembered, and an image is not run twice for a plan. The answer
    is of nothing but the arguments: neither of what was asked before nor of what is remembered.

    Args:
        model: the dense network; copied, not changed.
        graph: of it.
        data: the split is read from here once.
        solve: repairs the layers that lose inputs.
        repair: repairs the whole cut network, its batch norms folded, in place; see `sequential.Sequential`.
        split: name of the split.
        images: how many of its images; None for all.
        batch_size: images in one forward pass; None for what runs fastest.
        stopping: lets plans that are given leaders do with fewer images; None never does. Images are run
            in the same batches with and without it.
        memo: names what ``solve`` and ``repair`` depend on, and lets measurements be kept on disk for other
            runs, see `amc_env.memo`. What is read from there is, bit by bit, what would be measured. None
            keeps none.
        execution: where and how networks are run; ``solve`` and ``repair`` get tensors on its device.
        prefixes: bytes of what first layers gave that are kept, so that a plan that leaves these as they were
            starts behind them, see `amc_env.prefix`; 0 runs every network whole.

    ``seconds`` adds up what cutting and forward passes took, ``forwards`` counts images sent through a
    network, the dense one included, and ``evaluations`` how often one was cut, for what was not remembered.

    Raises:
        EvaluationError: when the dense network's logits are not finite.
        ValueError: for prefixes beside a repair or a compiled network, which are of the whole plan.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, data: DataSet, solve: Solve, *, repair: Repair | None = None,
        split: str = "reward", images: int | None = None, batch_size: int | None = None,
        stopping: Stopping | None = None, memo: str | None = None, execution: Execution = CPU,
        prefixes: int = 0,
    ) -> None:  # fmt: skip
        if prefixes and (repair is not None or execution.compile):
            raise ValueError(
                "prefixes are kept of networks that are neither repaired as a whole nor compiled"
            )
        self.split = split
        self.seconds = {"cut": 0.0, "forward": 0.0}
        self.forwards = 0
        self.evaluations = 0
        self.execution = execution
        self._graph, self._solve, self._repair, self.stopping = graph, solve, repair, stopping
        count = len(data[split].head(images))
        bare = repair is None and not prefixes
        self._surgeon = surgeon(model, graph, execution, count if bare else None)
        size = batch_size or _batch_size(graph, execution.device.type, count)
        self._batches = [
            (execution.place(_channels_last(batch)), execution.place(labels))
            for batch, labels in data.batches(split, size, images)
        ]
        self._ends = list(accumulate(len(labels) for _, labels in self._batches))
        self._looks = _looks(self._ends, size, stopping)
        self._seen: dict[str, Images] = {}  # by hash of the plan, the one asked for last at the end
        self._at_most = max(2, REMEMBERED // (self._ends[-1] * IMAGE.itemsize))
        self._cut: str | None = None  # hash of the plan that the surgeon's network is cut to
        self._form: nn.Module | None = self._formed()  # of the surgeon's network, as it is run
        self._runner = self._form
        self._dense = [F.log_softmax(logits, dim=1) for logits in self._logits_of_dense(model)]
        self._prefix_bytes = prefixes
        self._prefixes: Prefixes | None = None
        self._memo = None
        if memo is not None:
            self._memo = Memo(
                repair=memo, graph=graph.hash, network=repr(model), split=split, batch=size,
                weights=digest([value.cpu() for value in model.state_dict().values()]),
                images=data.fingerprint(split, images),
                # of the network's code, and of how this machine rounds
                logits=digest([part.cpu() for part in self._dense]),
                torch=torch.__version__, execution=f"{execution} {type(self._surgeon).__name__}",
                fused=self._form is not self._surgeon.network,
            )  # fmt: skip

    def __call__(self, plan: Plan, leaders: Sequence[Plan] = ()) -> Evaluation:
        """The evaluation of a plan.

        Args:
            plan: of this network.
            leaders: the best of the plans that were given all images; with a rule of stopping and enough of
                them, a plan that is with confidence not among the best gets an estimate from fewer images.
                The leaders themselves are given all.

        Raises:
            EvaluationError: when the cut network's logits are not finite.
        """
        whole = self._ends[-1]
        rule = self.stopping
        if rule is not None and len(leaders) >= fewest(rule.rank) and plan not in leaders:
            measured = [self._measured(leader, whole) for leader in leaders]
            known, least = Known(measured), rule.least(leaders, measured, self.split)
            for look in self._looks:
                found = self._measured(plan, look)
                if rule.hopeless(plan, found, known, least, self.split):
                    return estimate(found, known, self.split)
        return mean(self._measured(plan, whole), self.split)

    def remembered(self, plan: Plan) -> Images:
        """``(n,)`` what was measured of a plan's first images and is held in memory."""
        return self._seen.get(plan.hash, np.empty(0, IMAGE))

    def remember(self, plan: Plan, images: Images) -> None:
        """Take what was measured of a plan's first images, ``(n,)``, in place of what is remembered of it."""
        self._seen.pop(plan.hash, None)
        self._seen[plan.hash] = images
        while len(self._seen) > self._at_most:
            self._seen.pop(next(iter(self._seen)))

    def _measured(self, plan: Plan, count: int) -> Images:
        """``(count,)`` of the first images, which end with a batch; those that were never run are run."""
        found = self.remembered(plan)
        if len(found) < count and self._memo is not None:
            found = max(found, self._memo.read(plan), key=len)
        if len(found) < count:
            found = np.concatenate([found, *self._run(plan, len(found), count)])
            if self._memo is not None:
                self._memo.write(plan, found)
        self.remember(plan, found)
        return found[:count]

    def _run(self, plan: Plan, start: int, stop: int) -> list[Images]:
        """What is measured of the images from ``start`` to ``stop``, batch by batch."""
        network, measured = self._network(plan), []
        before = time.perf_counter()
        with evaluating(network):
            batches = zip(self._batches, self._dense, self._ends, strict=True)
            for number, ((images, labels), dense, end) in enumerate(batches):
                if start < end <= stop:
                    logits = self.execution.logits(self._of_batch(number), images)
                    if not bool(logits.isfinite().all()):
                        raise EvaluationError(
                            f"the logits of the network under plan {plan.hash} are not finite: "
                            f"{culprit(network)}"
                        )
                    measured.append(per_image(logits, labels, dense))
        self.forwards += stop - start
        self.seconds["forward"] += time.perf_counter() - before
        return measured

    def _of_batch(self, number: int) -> Callable[[Tensor], Tensor]:
        """What the network that is cut says of a batch."""
        if self._prefixes is None:
            return self._runner
        return partial(self._prefixes, number=number)

    def _network(self, plan: Plan) -> nn.Module:
        """The surgeon's network, cut to a plan."""
        if self._form is None:
            self._form = self._formed()
        if self._prefix_bytes and self._prefixes is None:
            self._cut = None
            self._prefixes = Prefixes(self._surgeon, self._form, self._batches[0][0], self._prefix_bytes)
        if self._cut != plan.hash:
            before = time.perf_counter()
            self._cut = None
            network = self._surgeon.cut(plan, self._solve)
            if self._repair is not None:
                self._repair(network, self._graph.mask(plan.kept))
            if self._prefixes is not None:
                self._prefixes.enter(self._graph.mask(plan.kept))
            if self._runner is self._form or not isinstance(self._surgeon, Masker):
                self._runner = self.execution.ready(self._form)
            self._cut = plan.hash
            self.evaluations += 1
            self.seconds["cut"] += time.perf_counter() - before
        return self._surgeon.network

    def _formed(self) -> nn.Module:
        """The surgeon's network as it is run."""
        if not self.execution.fuses:
            return self._surgeon.network
        self._cut = None
        return fused(self._surgeon, self._batches[0][0])

    def __getstate__(self) -> dict[str, Any]:
        """All but what another process makes for itself: first layers' values, the form of the network."""
        return self.__dict__ | {"_prefixes": None, "_form": None, "_runner": self._surgeon.network}

    def _logits_of_dense(self, model: nn.Module) -> list[Tensor]:
        network = self._surgeon.cut(Plan.dense(self._graph))
        with evaluating(network):
            found = [self.execution.logits(self._runner, images) for images, _ in self._batches]
        if not all(bool(logits.isfinite().all()) for logits in found):
            raise EvaluationError(f"the logits of the dense network are not finite: {culprit(model)}")
        self.forwards += self._ends[-1]
        return found


def surgeon(model: nn.Module, graph: Graph, execution: Execution, images: int | None) -> Surgeon:
    """What makes a plan's network, to be run on so many images.

    On a GPU that is a `Masker`, but for networks so large that the multiplications by zero take longer than
    what cuDNN prepares for each shape that is new to it, and where ``images`` is None: then it is worked on.
    """
    dense = sum(macs(layer, layer.c_in, layer.c_out) for layer in graph.layers)
    on_gpu, small = execution.device.type != "cpu", images is not None and images * dense < WHOLE
    if on_gpu and small and not graph.norms:
        return Masker(model, graph, device=execution.device)
    return Surgeon(model, graph, fold=True, device=execution.device)


def _looks(ends: Sequence[int], batch_size: int, stopping: Stopping | None) -> list[int]:
    """After how many images a plan may stop: ends of batches, about a block apart, all images left out."""
    if stopping is None:
        return []
    every = max(1, round(stopping.block / batch_size))
    return [end for number, end in enumerate(ends[:-1], 1) if number % every == 0]


def _batch_size(graph: Graph, device: str, images: int) -> int:
    """As many as keep the widest layer within `ACTIVATIONS`, from 8 to `AT_MOST`; the last batch as large as
    the others, as nearly as can be.
    """
    floats = max(
        layer.c_in * math.prod(layer.in_size) + layer.c_out * math.prod(layer.out_size)
        for layer in graph.layers
    )
    most = max(8, min(AT_MOST[device], ACTIVATIONS[device] // (4 * floats)))
    return math.ceil(images / math.ceil(images / most))


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
    """Top-1 accuracy in [0, 1] of a model on a split, run where the model is."""
    correct, device = 0, next((p.device for p in model.parameters()), CPU.device)
    with evaluating(model):
        for images, labels in data.batches(split, batch_size):
            correct += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
    return correct / len(data[split])
