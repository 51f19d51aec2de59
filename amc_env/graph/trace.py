"""Trace a CNN into a `Graph` by running it on channel labels instead of values.

`torch.fx` writes the network down once; an interpreter then sends an integer tensor through it, which holds
for each number that would stand there the label of its channel. View operations are run on the labels as they
are. A convolution or linear layer records the labels that it reads and emits fresh ones, element-wise
operations unify the labels of their operands, and what must stay rectangular is unified position by position.
No model is named anywhere; an operation that is not understood is an error that names its node.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from amc_env.compressors.surgery import Solve, Surgeon, cut_shape
from amc_env.graph.checker import verify
from amc_env.graph.interpreter import propagate
from amc_env.graph.labels import TraceError
from amc_env.graph.recorder import Recorder
from amc_env.graph.structure import Graph, Layer
from amc_env.plan import Plan

__all__ = ["TraceError", "trace", "verify"]


def trace(model: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """The graph of a classifier for images of a shape.

    Before it is handed out, an empty copy of the network is cut by a random plan and verified, so that a
    network that is only half understood is refused here and not after a search.

    Args:
        model: its forward takes one image batch and returns logits ``(N, classes)``.
        shape: C, H, W of an image.

    Raises:
        TraceError: for control flow that depends on data, an operation that is not understood, a module that
            is run on two different shapes, or an image that the network cannot take; it names the node.
    """
    _refuse_shared_parameters(model)
    recorder = Recorder(model, shape)
    written = propagate(model, recorder, shape)
    _refuse_idle_parameters(model, written)
    graph = recorder.graph()
    _refuse_borrowed_weights(graph, written)
    _try_cut(model, graph)
    return graph


def _try_cut(model: nn.Module, graph: Graph) -> None:
    generator = np.random.default_rng(0)
    plan = Plan.dense(graph)
    for group in graph.groups:
        count = int(generator.integers(1, len(group)))  # never the whole group
        plan = plan.with_group(
            group.index, tuple(np.sort(generator.permutation(len(group))[:count]).tolist())
        )
    verify(_Sketch(model, graph, fold=False).cut(plan), graph, graph.mask(plan.kept))


class _Sketch(Surgeon):
    """Cuts shapes alone: the weights of layers are one zero, expanded, and take no memory."""

    def _copy(self, model: nn.Module) -> nn.Module:
        memo: dict[int, nn.Parameter] = {}
        for layer in self.graph.layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            memo[id(weight)] = nn.Parameter(torch.zeros(()).expand(weight.shape))
        return copy.deepcopy(model, memo)

    def _weights(self, mask: NDArray[np.bool_], solve: Solve) -> Iterator[tuple[Layer, Tensor]]:
        return ((layer, torch.zeros(()).expand(cut_shape(layer, mask))) for layer in self.graph.layers)


def _refuse_shared_parameters(model: nn.Module) -> None:
    """One tensor in two modules would be cut twice, and differently."""
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{key}".lstrip(".")
            if id(parameter) in owners:
                raise TraceError(
                    f"{owners[id(parameter)]} and {full} are one tensor; call one module twice, or untie them"
                )
            owners[id(parameter)] = full


def _refuse_borrowed_weights(graph: Graph, written: fx.GraphModule) -> None:
    """What else reads the weights of a layer does not expect fewer of them."""
    weights = {f"{layer.name}.weight" for layer in graph.layers}
    for node in written.graph.nodes:
        used = [user for user in node.users if user.target not in (getattr, "size", "dim")]
        if node.op == "get_attr" and str(node.target) in weights and used:
            raise TraceError(
                f"node {used[0].name!r} computes with {node.target}, which is cut with its layer; give it a "
                "parameter of its own"
            )


def _refuse_idle_parameters(model: nn.Module, written: fx.GraphModule) -> None:
    """What evaluation does not run was not traced, and would be left with the wrong channels for training."""
    used: set[int] = set()
    for node in written.graph.nodes:
        if node.op == "call_module":
            used.update(id(p) for p in model.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr":
            owner, _, key = str(node.target).rpartition(".")
            used.add(id(getattr(model.get_submodule(owner), key)))
    idle = [name for name, p in model.named_parameters() if id(p) not in used]
    if idle:
        raise TraceError(
            f"{idle[0]} and {len(idle) - 1} more parameters idle when {type(model).__name__} is evaluated "
            "(an auxiliary head?); set such modules to None, with what switches them on"
        )
