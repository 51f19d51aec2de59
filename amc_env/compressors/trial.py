"""Checks that a network can be cut by its graph, on labels and then on images."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.compressors.channels import parts_first
from amc_env.compressors.folding import folded
from amc_env.compressors.layers import names_of
from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import Solve, Surgeon, cut, cut_shape
from amc_env.execution import evaluating
from amc_env.graph.checker import verify
from amc_env.graph.given import copied, tensors
from amc_env.graph.labels import TraceError
from amc_env.graph.structure import Graph, Layer
from amc_env.plan import Plan

TOLERANCE = 1e-3  # of the largest value; float32 sums in another order differ by some 1e-6


def random_plan(graph: Graph, seed: int = 0) -> Plan:
    """A plan that keeps a random part of each group, and something of each branch that is a part of one."""
    generator = np.random.default_rng(seed)
    plan = Plan.dense(graph)
    for group in graph.groups:
        count = int(generator.integers(1, len(group)))
        order, least = parts_first(graph, group, generator.permutation(len(group)))
        kept = np.sort(order[: max(count, least)])
        plan = plan.with_group(group.index, tuple(kept.tolist()))
    return plan


def level_plan(graph: Graph) -> Plan:
    """A plan with the same number of positions in each group, or as near to it as branches allow.

    A forward that compares the sizes of two activations takes another branch where they happen to be equal.
    """
    plan, most = Plan.dense(graph), min((len(group) for group in graph.groups), default=0)
    for group in graph.groups:
        order, least = parts_first(graph, group, np.arange(len(group)))
        plan = plan.with_group(group.index, tuple(np.sort(order[: max(most, least)]).tolist()))
    return plan


def try_cut(model: nn.Module, graph: Graph) -> None:
    """Cut an empty copy by two plans and run it on labels, to refuse a network with a wrong graph.

    Raises:
        TraceError: if the smaller network does not compute with exactly the kept channels.
    """
    for plan in (random_plan(graph), level_plan(graph)):
        verify(_Sketch(model, graph, fold=False).cut(plan), graph, graph.mask(plan.kept))


class _Sketch(Surgeon):
    """Cuts only shapes: the weights of layers are one expanded zero and take no memory."""

    def _copy(self, model: nn.Module) -> nn.Module:
        memo: dict[int, nn.Parameter] = {}
        for layer in self.graph.layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            memo[id(weight)] = nn.Parameter(torch.zeros(()).expand(weight.shape))
        return copy.deepcopy(model, memo)

    def _weights(self, mask: NDArray[np.bool_], solve: Solve) -> Iterator[tuple[Layer, Tensor]]:
        return ((layer, torch.zeros(()).expand(cut_shape(layer, mask))) for layer in self.graph.layers)


def check(model: nn.Module, graph: Graph, plan: Plan, images: Any) -> float:
    """Compare the cut network with the masked one on real images.

    Args:
        model: the dense network.
        graph: of it.
        plan: any.
        images: an input of the network; two images are enough.

    Returns:
        The largest difference of the logits, or of what a part returns, as a fraction of their largest value.

    Raises:
        TraceError: if they differ by more than 0.001; it names the first layer with a difference. Also if
            the masked network returns NaN or infinite numbers, or the forward changes its images.
    """
    refuse_changed_images(model, images)
    small, full = cut(model, graph, plan), masked(model, graph, plan)
    with _recorded(small, graph) as found, _outputs(small, graph) as ours, evaluating(small):
        small(images)
    whole = full.get_submodule("network")
    with _recorded(whole, graph) as expected, _outputs(whole, graph) as truth, evaluating(full):
        full(images)
    if not all(bool(each.isfinite().all()) for each in truth):
        raise TraceError(
            "the masked network returns NaN or infinite numbers: check the network's weights and operations "
            "(a root of a negative number, a division by 0)"
        )
    most = max(apart(one, other) for one, other in zip(ours, truth, strict=True))
    if not most <= TOLERANCE:
        with _outputs(model, graph) as once, evaluating(model):
            model(images)
        if not _computes(model, graph, images, once):
            raise TraceError(
                "two passes of one image through the network differ: its forward draws random numbers in "
                "evaluation as well (a functional dropout without training=self.training?)"
            )
        where = _parting(graph, graph.mask(plan.kept), found, expected)
        raise TraceError(
            f"the cut network and the masked one part at {where!r}: the forward does something with channels "
            "that tracing did not see"
        )
    return most


def check_replaceable(
    model: nn.Module, graph: Graph, modules: Mapping[str, nn.Module], images: Any, *, method: str
) -> None:
    """Check that a forward runs what stands under the names of its layers.

    Args:
        model: the dense network.
        graph: of it.
        modules: that may replace its layers, by name.
        images: an input of the network; two images are enough.
        method: of compression, for the message.

    Raises:
        TraceError: names the first layer that the forward reaches by something else. Also if the forward
            changes its images.
    """
    refuse_changed_images(model, images)
    if not _replaceable(model, graph, modules, images):
        found = (name for name in modules if not _replaceable(model, graph, {name: modules[name]}, images))
        raise TraceError(
            f"{method} cannot replace {next(found, 'several layers')!r}: the forward reaches it by something "
            "else than its name (a list of its own, its class, its weight); call the module, or name the "
            "layer in keep_whole"
        )


def refuse_changed_images(model: nn.Module, images: Any) -> None:
    """Refuse a forward that changes its images in place: every plan is evaluated on the same ones.

    Raises:
        TraceError: for such a forward.
    """
    given = copied(images)
    with evaluating(model):
        model(given)
    if not all(torch.equal(one, other) for one, other in zip(tensors(given), tensors(images), strict=True)):
        raise TraceError("the forward changes its images in place (x -= mean?): write x = x - mean")


def _replaceable(model: nn.Module, graph: Graph, modules: Mapping[str, nn.Module], images: Any) -> bool:
    """Whether modules in place of layers compute the same as hooks on the layers that run these modules.

    A hook runs wherever the forward calls the layer, a module in its place only where the forward looks the
    layer up by its name.
    """
    hooked, swapped = copy.deepcopy(model), copy.deepcopy(model)
    names = names_of(swapped)
    for name, module in modules.items():
        hooked.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, __, module=module: module.forward(*args, **kwargs),
            prepend=True, with_kwargs=True,
        )  # fmt: skip
        for each in names[name]:
            swapped.set_submodule(each, module)
    with _outputs(hooked, graph) as truth, evaluating(hooked):
        hooked(images)
    return _computes(swapped, graph, images, truth)


def _computes(network: nn.Module, graph: Graph, images: Any, truth: Sequence[Tensor]) -> bool:
    """Whether a network returns these tensors; False if it lacks an attribute or a shape does not fit."""
    try:
        with _outputs(network, graph) as found, evaluating(network):
            network(images)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(apart(one, other) <= TOLERANCE for one, other in zip(found, truth, strict=True))


def with_sound_folds(model: nn.Module, graph: Graph, images: Any) -> Graph:
    """The graph, without its folds if the network does not compute the same once batch norms are folded.

    That happens where a forward reaches a batch norm by something else than its name: by a list of its own,
    by its class, or by its weights.

    Args:
        model: the dense network.
        graph: of it.
        images: an input of the network; two images are enough.
    """
    with _outputs(model, graph) as truth, evaluating(model):
        model(images)
    return graph if _computes(folded(model, graph), graph, images, truth) else replace(graph, folds=())


def _parting(
    graph: Graph,
    mask: NDArray[np.bool_],
    found: dict[str, list[Tensor]],
    expected: dict[str, list[Tensor]],
) -> str:
    """The first layer whose outputs differ."""
    for layer in graph.layers:
        dim = -1 if layer.kind == "linear" else 1
        rows = torch.from_numpy(np.flatnonzero(mask[layer.writes]))
        for ours, theirs in zip(found[layer.name], expected[layer.name], strict=True):
            if not apart(ours, theirs.index_select(dim, rows.to(theirs.device))) <= TOLERANCE:
                return layer.name
    return "the end, after all layers"


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest value; infinite for unequal shapes."""
    if found.shape != expected.shape:
        return math.inf
    if not found.numel():  # as boxes where nothing is found
        return 0.0
    found, expected = found.double(), expected.double()  # masks as well
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


@contextmanager
def _outputs(network: nn.Module, graph: Graph) -> Iterator[list[Tensor]]:
    """The tensors that a network, or its compressed part, returns while the context is open."""
    kept: list[Tensor] = []
    part = network.get_submodule(graph.given.part)
    with part.register_forward_hook(lambda _, __, output: kept.extend(tensors(output))):
        yield kept


@contextmanager
def _recorded(network: nn.Module, graph: Graph) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of each layer of a network, call by call, while the context is open."""
    outputs: dict[str, list[Tensor]] = {layer.name: [] for layer in graph.layers}
    with ExitStack() as hooks:
        for name, kept in outputs.items():
            hooks.enter_context(
                network.get_submodule(name).register_forward_hook(
                    lambda _, __, output, kept=kept: kept.append(output.detach().clone())
                )
            )
        yield outputs
