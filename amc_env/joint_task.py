"""The task of compressing a network's channels and the bits of its weights together."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.compressors import plan_of
from amc_env.compressors.constraints import constrain, weight_of
from amc_env.compressors.joint import Joint
from amc_env.compressors.remembered import Remembered
from amc_env.compressors.surgery import Solve, Surgeon, cut
from amc_env.compressors.weight_sharing import Sharing
from amc_env.data.splits import DataSet
from amc_env.evaluator import Evaluator
from amc_env.graph.structure import Layer
from amc_env.plan import Plan
from amc_env.task import Task


class JointNetworks:
    """Cut networks of plans, for evaluation, with shared weights; the shared weights of layers are cached.

    Args:
        model: the dense network.
        compressor: of its channels and bits.
        solve: repairs each layer that lost inputs.
        sharing: makes the codebooks.
        device: where networks are run.
    """

    def __init__(
        self, model: nn.Module, compressor: Joint, solve: Solve, sharing: Sharing, device: torch.device
    ) -> None:
        self.graph, self.device, self._compressor = compressor.graph, device, compressor
        self._channels, self._solve, self._sharing = compressor.channels.graph, solve, sharing
        self._surgeon = Surgeon(model, self._channels, fold=False, device=device)
        self._known = Remembered[Tensor](least=1)

    def network(self, plan: Plan) -> nn.Module:
        """The network of a plan; the next call overwrites the same module."""
        channels, bits = self._compressor.parts(plan)
        network = self._surgeon.cut(channels, self._solve).eval()
        mask = self._channels.mask(channels.kept)
        with torch.no_grad():
            for layer in self._channels.layers:
                if layer.name in bits:
                    weight = weight_of(network.get_submodule(layer.name))
                    weight.copy_(self._values(layer, weight, mask, bits[layer.name]))
        return network

    def _values(self, layer: Layer, weight: Tensor, mask: NDArray[np.bool_], bits: int) -> Tensor:
        key = layer.name, bits, mask[layer.reads].tobytes(), mask[layer.writes].tobytes()
        if (known := self._known.get(key)) is not None:
            return known
        shared = self._sharing(layer, weight.detach().cpu(), mask, bits)
        values = shared(shared.values).to(self.device)
        return self._known.add(key, values, values.nbytes)


class JointTask:
    """A network whose channels are removed and whose weights are shared, see `amc_env.task.Task`.

    Args:
        channels: the task of its channels.
        start: of k-means.
        seed: of k-means' random start.

    Attributes:
        graph: of the plans.
        draft: the compressor with the channels' draft, whose budgets are known before any long work.
        metric: accuracy alone.
        latency: no table of times.
        tunable: whether the network that is found can be fine-tuned.
        part: the whole network.
    """

    metric: Any = None
    latency: Any = None
    tunable = True
    part = ""

    def __init__(self, channels: Task, *, start: str, seed: int) -> None:
        self._channels, self._start, self._seed = channels, start, seed
        self.model, self.device = channels.model, channels.device
        self.data: DataSet = channels.data
        self.draft = Joint(channels.draft)
        self.graph = self.draft.graph

    @cached_property
    def compressor(self) -> Joint:
        """Makes the plans."""
        return Joint(self._channels.compressor)

    @cached_property
    def sharing(self) -> Sharing:
        """Makes the codebooks."""
        return Sharing(self._channels.moments, start=self._start, seed=self._seed)

    def evaluator(self, split: str, images: int | None = None) -> Evaluator:
        """Evaluates plans on the first ``images`` of a split; None for all of them."""
        networks = JointNetworks(self.model, self.compressor, self._channels.solve, self.sharing, self.device)
        return Evaluator(networks, self.data, split=split, images=images)

    def network(self, plan: Plan) -> nn.Module:
        """The smaller, trainable network of a plan, in eval mode; its shared weights stay equal in training.

        Raises:
            PlanError: for a plan of another network or compressor.
        """
        channels, bits = self.compressor.parts(plan)
        return self._shared(self._channels.network(channels), channels, bits, self.sharing).eval()

    def rehearsal(self) -> nn.Module:
        """The smallest possible network, made without moments."""
        plan = plan_of(self.draft, [choices[0] for choices in self.draft.choices])
        channels, bits = self.draft.parts(plan)
        small = cut(self.model, self.draft.channels.graph, channels)
        return self._shared(small, channels, bits, Sharing(None, start=self._start, seed=self._seed))

    def described(self, plan: Plan) -> dict[str, Any] | None:
        """The plan of the channels, from which a card rebuilds the network."""
        channels, _ = self.compressor.parts(plan)
        return channels.to_dict()

    def _shared(self, small: nn.Module, plan: Plan, bits: dict[str, int], sharing: Sharing) -> nn.Module:
        graph = self.draft.channels.graph
        mask = graph.mask(plan.kept)
        for layer in graph.layers:
            if layer.name in bits:
                weight = weight_of(small.get_submodule(layer.name)).detach().cpu()
                constrain(small, {layer.name: sharing(layer, weight, mask, bits[layer.name])})
        return small
