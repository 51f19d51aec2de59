"""Makes the network of one plan after another for evaluation: cut, or at full size with zeros."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.compressors.folding import folded
from amc_env.compressors.surgery import Solutions, Solve, Surgeon, drop, tensors
from amc_env.cost import macs
from amc_env.execution import CPU, lay_channels_last
from amc_env.graph.structure import Graph, Layer
from amc_env.plan import Plan

MOST_MASKED = 2**41  # multiplications of the dense network on all images: beyond, a GPU runs cut networks

Repair = Callable[[nn.Module, NDArray[np.bool_]], None]
"""(cut network with folded batch norms, ``(atoms,)`` which atoms stayed) -> None; works in place."""


class Networks(Protocol):
    """The interface to an evaluator: makes the network of any plan.

    Attributes:
        graph: of the dense network.
        device: of the networks.
    """

    graph: Graph
    device: torch.device

    def network(self, plan: Plan) -> nn.Module:
        """The network of a plan, for evaluation; the next call may overwrite the same module."""


class CutNetworks:
    """Physically smaller networks.

    Args:
        model: the dense network; copied, not changed.
        graph: of it.
        solve: repairs each layer that lost inputs.
        repair: afterwards repairs the whole cut network; None leaves it as it is.
        device: where networks are run; ``solve`` and ``repair`` get tensors there.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        solve: Solve = drop,
        *,
        repair: Repair | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.graph, self.device, self._solve, self._repair = graph, device, solve, repair
        self._surgeon = Surgeon(model, graph, fold=True, device=device)

    def network(self, plan: Plan) -> nn.Module:
        """The small network; the next call overwrites the same module."""
        network = self._surgeon.cut(plan, self._solve)
        mask = self.graph.mask(plan.kept)
        if self._repair is not None and not mask.all():
            self._repair(network, mask)
        return network


class MaskedNetworks:
    """Networks at their full size, with zeros where a removed channel would be read.

    They compute the same as cut networks, with the same shapes for every plan. A GPU needs longer to prepare
    for new shapes than to multiply by zeros.

    Args:
        model: the dense network; copied, not changed.
        graph: of it.
        solve: repairs each layer that lost inputs.
        device: where networks are run; ``solve`` gets tensors there.

    Raises:
        ValueError: for a network with statistics over its channels, which would include removed channels.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, solve: Solve = drop, *, device: torch.device = CPU
    ) -> None:
        if graph.norms:
            raise ValueError(f"{graph.norms[0]} belongs to a norm over channels: cut such a network instead")
        self.graph, self.device, self._solve = graph, device, solve
        self._network = folded(model, graph, device)
        if graph.channels_last:
            lay_channels_last(self._network)
        self._dense = {name: value.clone() for name, value in tensors(self._network)}
        self._solutions = Solutions(graph, self._dense)

    def network(self, plan: Plan) -> nn.Module:
        """The full-size network; the next call overwrites the same module."""
        plan.check(self.graph)
        mask = self.graph.mask(plan.kept)
        with torch.no_grad():
            solved = self._solutions(mask, self._solve)
            for layer in self.graph.layers:
                name, reads = f"{layer.name}.weight", torch.from_numpy(mask[layer.reads])
                weight = self._dense[name]
                if layer.name in solved:
                    weight = spread(layer, solved[layer.name], weight, reads)
                elif layer.kind == "transposed":
                    weight = weight * reads.to(weight.device).view(-1, 1, 1, 1)
                self._network.get_parameter(name).copy_(weight)
        return self._network


def networks(
    model: nn.Module,
    graph: Graph,
    solve: Solve = drop,
    *,
    device: torch.device = CPU,
    images: int,
) -> Networks:
    """The faster of both on a device, for plans that are each run on this many images.

    On a GPU these are `MaskedNetworks`, unless the network has norms over channels, or is so large that
    multiplying by zeros takes longer than cuDNN prepares for new shapes.
    """
    dense = sum(macs(layer, layer.c_in, layer.c_out) for layer in graph.layers)
    small = images * dense < MOST_MASKED
    if device.type != "cpu" and small and not graph.norms:
        return MaskedNetworks(model, graph, solve, device=device)
    return CutNetworks(model, graph, solve, device=device)


def spread(layer: Layer, solved: Tensor, dense: Tensor, reads: Tensor) -> Tensor:
    """Solved weights at full size, zero in the columns of removed channels.

    Args:
        layer: of the graph.
        solved: weights on the kept columns.
        dense: ``(c_out, c_in / groups, ...)``; only shape and device are read.
        reads: ``(c_in,)`` bool, the kept inputs.
    """
    columns = reads.view(layer.groups, 1, -1).repeat_interleave(layer.taps, dim=2).to(dense.device)
    full = torch.zeros_like(dense, memory_format=torch.contiguous_format).view(
        layer.groups, -1, columns.size(2)
    )
    return full.masked_scatter_(columns, solved.contiguous()).view_as(dense)
