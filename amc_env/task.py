"""The task of compressing a network's channels."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.compressors.networks import CutNetworks, Networks, networks
from amc_env.compressors.surgery import Solve, Surgeon, cut, drop
from amc_env.compressors.trial import random_plan
from amc_env.cost import Ints
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet
from amc_env.evaluator import Evaluator
from amc_env.graph.structure import Graph
from amc_env.plan import Plan
from amc_env.repair.elimination import orders_cached
from amc_env.repair.information import Information, information
from amc_env.repair.moments import Moments, collect_cached
from amc_env.repair.sensitivity import at_counts, curves_cached
from amc_env.repair.sequential import SequentialRepair
from amc_env.scoring import Metric, Scorer


class Task:
    """A network that is compressed, its data, and how plans of it are cut, repaired and evaluated.

    `amc_env.building.make_task` makes one from names. Moments and orders are computed when they are first
    needed.

    Args:
        model: the dense network; logits ``(N, classes)`` unless there is a metric. It is not changed.
        graph: its layers and channel groups.
        data: its splits.
        channels: makes a compressor from the orders of the groups.
        order: a name in `amc_env.building.ORDERS`.
        repair: a name in `amc_env.building.REPAIRS`.
        sample: ``images``, ``points`` and ``seed`` of the calibration rows, see `amc_env.building.Settings`.
        device: where plans are repaired and run.
        metric: replaces accuracy; None for accuracy itself.
        tunable: whether the network returns logits and the data have class labels.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: DataSet | OwnData,
        *,
        channels: Callable[[Sequence[Ints]], Channels],
        order: str,
        repair: str,
        sample: dict[str, int],
        device: torch.device,
        metric: Metric | None = None,
        tunable: bool = True,
    ) -> None:
        self.model, self.graph, self._channels = model, graph, channels
        self.data: Any = data
        self.order, self.repair, self.device, self._sample = order, repair, device, sample
        self.metric, self.tunable, self.part = metric, tunable, graph.given.part
        self.draft = channels(magnitude_orders(model, graph))  # its budgets are known before any long work
        self.latency = self.draft.latency

    @cached_property
    def compressor(self) -> Channels:
        """Makes the plans."""
        if self.order == "magnitude":
            made = self.draft
        else:
            made = self._channels(orders_cached(self.model, self.graph, self.data, **self._sample))
        if self.moments is not None:
            inform = None if self.metric is not None else self._information
            found, rises = curves_cached(
                self.model, self.graph, self.data, self.moments, inform, made.orders, **self._sample
            )
            made.errors = at_counts(found, made.choices)
            made.losses = None if rises is None else at_counts(rises, made.choices)
        return made

    def _information(self) -> Information:
        """How much the loss rises with errors in the outputs of layers."""
        images, seed = self._sample["images"], self._sample["seed"]
        return information(self.model, self.graph, self.data, images=images, seed=seed)

    @cached_property
    def moments(self) -> Moments | None:
        """Second moments of the inputs of the dense network's layers; None if nothing is repaired."""
        if self.repair == "none":
            return None
        return collect_cached(self.model, self.graph, self.data, **self._sample, every=False)

    @cached_property
    def solve(self) -> Solve:
        """Computes the weights of layers that lost inputs; its tensors are on the device."""
        return drop if self.moments is None else self.moments.to(self.device).solve

    def networks(self, images: int, split: str = "reward") -> Networks:
        """Makes the networks of plans, each of which is run on this many images of a split."""
        if not self._delivers_sequential or (self.repair == "staged" and split == "reward"):
            return networks(self.model, self.graph, self.solve, device=self.device, images=images)
        whole = Surgeon(self.model, self.graph, fold=True, device=self.device).cut(Plan.dense(self.graph))
        repair = SequentialRepair(whole, self.graph, self.data, **self._sample, unfolded=self.model).repair
        return CutNetworks(self.model, self.graph, self.solve, repair=repair, device=self.device)

    def evaluator(self, split: str, images: int | None = None) -> Any:
        """An `Evaluator` or `Scorer` of plans on the first ``images`` of a split; None for all of them."""
        count = len(self.data[split].head(images))
        if self.metric is not None:
            return Scorer(self.networks(count, split), self.data, self.metric, split=split, images=images)
        return Evaluator(self.networks(count, split), self.data, split=split, images=images)

    def network(self, plan: Plan) -> nn.Module:
        """The physically smaller, trainable network of a plan, repaired as it is delivered, in eval mode.

        Raises:
            PlanError: for a plan of another network.
        """
        solve = drop if self.moments is None else self.moments.solve
        small = cut(self.model, self.graph, plan, solve)
        if self._delivers_sequential:
            self._sequential.repair(small.to(self.device), self.graph.mask(plan.kept))
        return small.cpu().eval()

    def rehearsal(self) -> nn.Module:
        """A small trainable network, made without moments."""
        return cut(self.model, self.graph, random_plan(self.graph))

    def described(self, plan: Plan) -> dict[str, Any] | None:
        """What a card needs to build a plan's network."""
        return plan.to_dict()

    @property
    def _delivers_sequential(self) -> bool:
        """Whether a network that is delivered is repaired sequentially."""
        return self.repair in ("sequential", "staged")

    @cached_property
    def _sequential(self) -> SequentialRepair:
        """Repairs trainable networks, whose batch norms are not folded; on the device."""
        dense = copy.deepcopy(self.model).to(self.device)
        return SequentialRepair(dense, self.graph, self.data, unfolded=None, **self._sample)
