"""Measures plans by a user's own metric instead of top-1 accuracy, with a standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.checks import number_of
from amc_env.compressors.networks import Networks
from amc_env.data.own import Batch, OwnData, count
from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from amc_env.graph.given import nested
from amc_env.metrics import EvaluationError, Score
from amc_env.plan import Plan

Metric = Callable[[nn.Module, Sequence[Batch]], Any]
"""(network in evaluation mode, batches) -> a number, higher is better, or (number, its standard error). Each
batch is a pair of images, as the network takes them, and targets."""

PARTS = 5  # of the batches, whose scores show how a metric varies
SIZE = 32  # images in a batch of a data set


def batches_of(
    data: DataSet | OwnData, split: str, device: torch.device, images: int | None = None
) -> list[Batch]:
    """The batches of a split, on a device."""

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return [
        (nested(inputs, moved), nested(targets, moved))
        for inputs, targets in data.batches(split, SIZE, images)
    ]


def score(network: nn.Module, metric: Metric, batches: Sequence[Batch], split: str) -> Score:
    """A network's score by a metric, with a standard error.

    If the metric returns no error, it is computed again on each of up to `PARTS` parts of the batches; the
    error is the deviation of these values divided by the root of their number, and 0 for a single batch.

    Raises:
        EvaluationError: for anything else than a finite number, or two.
    """
    with evaluating(network):
        found = metric(network, batches)
        if isinstance(found, tuple | list):
            value, error = (_number(each, metric) for each in _two(found, metric))
        else:
            value, error = _number(found, metric), _spread(network, metric, batches)
    return Score(value, error, sum(count(images) for images, _ in batches), split)


def _spread(network: nn.Module, metric: Metric, batches: Sequence[Batch]) -> float:
    parts = [part for start in range(PARTS) if (part := batches[start::PARTS])]
    if len(parts) < 2:
        return 0.0
    values = torch.tensor([_number(metric(network, part), metric) for part in parts], dtype=torch.float64)
    return float(values.std() / len(parts) ** 0.5)


def _two(found: Sequence[Any], metric: Metric) -> Sequence[Any]:
    if len(found) != 2:
        raise EvaluationError(
            f"{_name(metric)} gives {number_of(len(found), 'value')}; wanted: a number, or it and its error"
        )
    return found


def _number(found: Any, metric: Metric) -> float:
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"{_name(metric)} gives a {type(found).__name__}; wanted: a number, higher is better, or a pair "
            "of it and its standard error"
        ) from error
    if not math.isfinite(value):
        raise EvaluationError(
            f"{_name(metric)} gives {value}; give a finite number, as 0 where nothing is found"
        )
    return value


def _name(metric: Metric) -> str:
    return f"the metric {getattr(metric, '__name__', type(metric).__name__)}"


class Scorer:
    """Scores plans of one dense network on one split by a metric, and caches each plan's score.

    Args:
        networks: make the network of each plan.
        data: the split is read from here once.
        metric: the user's own.
        split: name of the split.
        images: number of its images; None for all.

    Attributes:
        seconds: spent so far on cutting (``cut``) and on the metric (``forward``).
        forwards: images sent through networks so far.
        evaluations: networks cut so far.

    Raises:
        EvaluationError: when the metric gives no number for the dense network.
    """

    def __init__(
        self,
        networks: Networks,
        data: DataSet | OwnData,
        metric: Metric,
        *,
        split: str = "reward",
        images: int | None = None,
    ) -> None:
        self.split, self.seconds = split, {"cut": 0.0, "forward": 0.0}
        self.forwards = self.evaluations = 0
        self._networks, self._metric = networks, metric
        self._batches = batches_of(data, split, networks.device, images)
        self._known: dict[str, Score] = {}  # by hash of the plan
        self._score(networks.network(Plan.dense(networks.graph)))

    def __call__(self, plan: Plan) -> Score:
        """The score of a plan.

        Raises:
            PlanError: for a plan of another network.
            EvaluationError: when the metric gives no number.
        """
        if plan.hash not in self._known:
            start = time.perf_counter()
            network = self._networks.network(plan)
            cut = time.perf_counter()
            self._known[plan.hash] = self._score(network)
            self.evaluations += 1
            self.seconds["cut"] += cut - start
            self.seconds["forward"] += time.perf_counter() - cut
        return self._known[plan.hash]

    def _score(self, network: nn.Module) -> Score:
        def add(_: nn.Module, args: tuple[Any, ...]) -> None:
            self.forwards += count(args[0]) if args else 0

        with network.register_forward_pre_hook(add):
            return score(network, self._metric, self._batches, self.split)
