"""The task of compressing a network layer by layer: weights, bits or ranks instead of channels."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from amc_env.compressors import plan_of
from amc_env.compressors.fine_grained import FineGrained
from amc_env.compressors.layers import LayerCompressor, LayerNetworks, Method, fill
from amc_env.compressors.low_rank import LowRank
from amc_env.compressors.weight_sharing import WeightSharing
from amc_env.data.splits import DataSet
from amc_env.evaluator import Evaluator
from amc_env.graph.structure import Graph
from amc_env.plan import Plan
from amc_env.repair.moments import Moments, collect_cached

Make = Callable[[Moments | None], Method]


class LayerTask:
    """A network whose layers are compressed by one method, see `amc_env.task.Task`.

    Args:
        model: the dense network; logits ``(N, classes)``. It is copied, not changed.
        graph: of it, by channels.
        data: its splits.
        make: makes the method from moments; they are None for a draft.
        informed: whether the method uses the moments.
        sample: ``images``, ``points`` and ``seed`` of the calibration rows.
        device: where networks are run.

    Attributes:
        graph: by layers: that of the plans.
        draft: the compressor without moments, whose budgets are known before any long work.
        metric: accuracy alone.
        latency: no table of times.
        tunable: whether the network that is found can be fine-tuned.
        part: the whole network.
    """

    metric: Any = None
    latency: Any = None
    tunable = True
    part = ""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: DataSet,
        *,
        make: Make,
        informed: bool,
        sample: dict[str, int],
        device: torch.device,
    ) -> None:
        self.model, self.data, self.device = copy.deepcopy(model).eval(), data, device
        self._channels, self._make, self._informed, self._sample = graph, make, informed, sample
        self.draft = LayerCompressor(graph, make(None))
        self.graph = self.draft.graph

    @cached_property
    def compressor(self) -> LayerCompressor:
        """Makes the plans."""
        if not self._informed:
            return self.draft
        moments = collect_cached(self.model, self._channels, self.data, **self._sample, every=True)
        return LayerCompressor(self._channels, self._make(moments))

    def evaluator(self, split: str, images: int | None = None) -> Evaluator:
        """Evaluates plans on the first ``images`` of a split; None for all of them."""
        networks = LayerNetworks(self.model, self.compressor, self.device)
        return Evaluator(networks, self.data, split=split, images=images)

    def network(self, plan: Plan) -> nn.Module:
        """The trainable network of a plan, in eval mode: pruned weights stay zero, shared ones stay equal.

        Raises:
            PlanError: for a plan of another network or compressor.
        """
        return self._filled(plan, self.compressor).eval()

    def smallest(self) -> dict[str, nn.Module]:
        """Each layer at its lowest count by name, made without moments."""
        decided = zip(self.draft.layers, self.draft.choices, strict=True)
        return {layer.name: self.draft.method.module(layer, int(choices[0])) for layer, choices in decided}

    def rehearsal(self) -> nn.Module:
        """The smallest possible network, made without moments."""
        plan = plan_of(self.draft, [choices[0] for choices in self.draft.choices])
        return self._filled(plan, self.draft)

    def described(self, plan: Plan) -> dict[str, Any] | None:
        """The data from which a card rebuilds the network; None if only its numbers differ."""
        if not isinstance(self.compressor.method, LowRank):
            return None
        return plan.to_dict() | {"ranks": self.ranks(plan), "split": self.compressor.method.split}

    def ranks(self, plan: Plan) -> dict[str, int]:
        """The counts of layers that are not whole, by name."""
        found = zip(self.compressor.layers, self.compressor.graph.groups, plan.kept, strict=True)
        return {
            layer.name: len(kept)
            for layer, group, kept in found
            if kept is not None and len(kept) < len(group)
        }

    def _filled(self, plan: Plan, compressor: LayerCompressor) -> nn.Module:
        network = copy.deepcopy(self.model)
        fill(network, plan, compressor, compressor.method.module)
        return network


def make_layer_task(
    model: nn.Module,
    graph: Graph,
    data: DataSet,
    *,
    method: str,
    order: str,
    repair: str,
    floor: float,
    split: str,
    start: str,
    sample: dict[str, int],
    device: torch.device,
) -> LayerTask:
    """The task of a method; the settings are those of `amc_env.building.make_task`.

    Raises:
        ValueError: if the method leaves every layer whole.
    """
    second, repaired = method == "fine_grained" and order == "elimination", repair == "moments"

    def make(moments: Moments | None) -> Method:
        if method == "fine_grained":
            return FineGrained(model, moments, second_order=second, repair=repaired, floor=floor)
        if method == "weight_sharing":
            return WeightSharing(model, moments, start=start, seed=sample["seed"])
        return LowRank(model, moments, split=split, floor=floor)

    return LayerTask(
        model, graph, data, make=make, informed=repaired or second, sample=sample,
        device=device,
    )  # fmt: skip
