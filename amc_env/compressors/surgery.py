"""Cuts networks: a plan and the dense weights give a physically smaller network."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.compressors.folding import folded
from amc_env.compressors.remembered import Remembered
from amc_env.graph.checker import verify
from amc_env.graph.structure import Graph, Layer, Vector
from amc_env.plan import Plan

SIZES = {  # where modules note the number of channels that their vectors have
    nn.BatchNorm2d: "num_features",
    nn.BatchNorm1d: "num_features",
    nn.InstanceNorm2d: "num_features",
    nn.LayerNorm: "normalized_shape",
    nn.GroupNorm: "num_channels",
    nn.PReLU: "num_parameters",
}


class Problem(NamedTuple):
    """The weights to solve for in one channel group of a layer, on the kept columns.

    Attributes:
        layer: of the graph.
        block: its channel group.
        weight: ``(rows, d)`` dense weights, kernels flattened.
        columns: ``(k,)`` int64 on the CPU, the kept columns, ascending.
    """

    layer: Layer
    block: int
    weight: Tensor
    columns: Tensor


Solve = Callable[[Iterable[Problem]], Iterable[Tensor]]
"""Gives each problem's weights ``(rows, k)``, in order; they depend on that problem alone."""


def drop(problems: Iterable[Problem]) -> Iterator[Tensor]:
    """A `Solve` that repairs nothing: the dense weights of the kept columns."""
    return (problem.weight[:, problem.columns] for problem in problems)


class Surgeon:
    """Cuts one network again and again: it copies the network once and refills the copy for each plan.

    Args:
        model: the dense network, never written. Folding copies it; otherwise each cut reads its weights.
        graph: of the dense network.
        fold: put each batch norm that directly follows a layer into that layer's weights and bias. The copy
            is then for evaluation only: its kernels lie channels last, the order in which they are
            multiplied, and a layer is solved once for each choice of its inputs, for all rows.
        device: of the copy; None for the model's.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, *, fold: bool, device: torch.device | None = None
    ) -> None:
        self.graph = graph
        self._fold = fold
        self.network = folded(model, graph, device) if fold else self._copy(model).to(device)
        self._vectors = _vectors(graph, fold)
        self._dense = dict(tensors(self.network))
        self._shared = shared_buffers(self.network)
        self._solutions = Solutions(graph, self._dense)
        cut = {f"{layer.name}.weight" for layer in graph.layers} | {vector.name for vector in self._vectors}
        self._uncut = [name for name in self._dense if name not in cut]

    def cut(self, plan: Plan, solve: Solve = drop) -> nn.Module:
        """Fill the copy with the network of a plan; the next call overwrites it.

        Args:
            plan: made for this graph.
            solve: computes the weights of a layer that lost inputs.

        Raises:
            PlanError: for a plan that does not fit the graph.
        """
        plan.check(self.graph)
        mask = self.graph.mask(plan.kept)
        with torch.no_grad():
            for layer, weight in self._weights(mask, solve):
                self._fill(f"{layer.name}.weight", weight)
                resize(self.network.get_submodule(layer.name), layer, mask)
            for vector in self._vectors:
                kept = torch.from_numpy(np.flatnonzero(mask[vector.atoms]))
                dense = self._dense[vector.name]
                self._fill(vector.name, dense.index_select(vector.dim, kept.to(dense.device)))
            for name in self._uncut:
                self._fill(name, self._dense[name].clone())
        return self.network

    def _copy(self, model: nn.Module) -> nn.Module:
        """A copy that shares the layers' weights: each cut indexes them, which makes new tensors."""
        weights = [model.get_parameter(f"{layer.name}.weight") for layer in self.graph.layers]
        return copy.deepcopy(
            model, {id(w): nn.Parameter(w.detach(), requires_grad=w.requires_grad) for w in weights}
        )

    def _weights(self, mask: NDArray[np.bool_], solve: Solve) -> Iterator[tuple[Layer, Tensor]]:
        """Each layer and its cut weights."""
        solved = self._solutions(mask, solve) if self._fold else {}
        for layer in self.graph.layers:
            if layer.name in solved:
                yield layer, solved[layer.name][torch.from_numpy(mask[layer.writes])]
            else:
                yield layer, cut_weight(layer, self._dense[f"{layer.name}.weight"], mask, solve)

    def _fill(self, name: str, value: Tensor) -> None:
        owner, _, key = name.rpartition(".")
        module = self.network.get_submodule(owner)
        old = getattr(module, key)
        if self._fold and self.graph.channels_last and value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        if isinstance(old, nn.Parameter):
            old.data, old.grad = value, None  # the same parameter: a list of the user's may hold it too
        else:
            setattr(module, key, value)
            for other, its_key in self._shared.get(name, ()):
                setattr(other, its_key, value)
        for kind, attribute in SIZES.items():
            if isinstance(module, kind) and key in ("weight", "running_mean"):
                setattr(module, attribute, (len(value),) if kind is nn.LayerNorm else len(value))


def tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, saved in its state or not, each under its first name."""
    for named in (network.named_parameters(), network.named_buffers()):
        yield from ((name, value.detach()) for name, value in named)


def shared_buffers(network: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """For each buffer by its first name, the other modules that hold it, and their names for it."""
    first: dict[int, str] = {}
    found: dict[str, list[tuple[nn.Module, str]]] = {}
    for path, module in network.named_modules():
        for key, value in module.named_buffers(recurse=False, remove_duplicate=False):
            name = first.setdefault(id(value), f"{path}.{key}".lstrip("."))
            if name != f"{path}.{key}".lstrip("."):
                found.setdefault(name, []).append((module, key))
    return found


class Solutions:
    """Caches the solved weights of a network's layers, for all rows, by the inputs that a layer keeps.

    Args:
        graph: of the dense network.
        dense: its tensors by name.
    """

    def __init__(self, graph: Graph, dense: Mapping[str, Tensor]) -> None:
        self._dense = dense
        self._layers = [layer for layer in graph.layers if layer.kind not in ("depthwise", "transposed")]
        self._known = Remembered[Tensor]()

    def __call__(self, mask: NDArray[np.bool_], solve: Solve) -> dict[str, Tensor]:
        """The weights on the kept inputs of each layer that lost some, by name; one call solves them all.

        Args:
            mask: ``(atoms,)`` bool, true where an atom is kept.
            solve: computes the weights.
        """
        layers = [layer for layer in self._layers if not mask[layer.reads].all()]
        keys = {layer.name: (solve, layer.name, mask[layer.reads].tobytes()) for layer in layers}
        known = {name: self._known.get(key) for name, key in keys.items()}
        found = {name: weight for name, weight in known.items() if weight is not None}
        missing = [layer for layer in layers if layer.name not in found]
        jobs = [
            (
                layer,
                self._dense[f"{layer.name}.weight"],
                torch.from_numpy(mask[layer.reads]),
                torch.ones(layer.c_out, dtype=torch.bool),
            )
            for layer in missing
        ]
        for layer, weight in zip(missing, _solve_columns(jobs, solve), strict=True):
            found[layer.name] = self._known.add(keys[layer.name], weight, weight.nbytes)
        return found


def _vectors(graph: Graph, fold: bool) -> tuple[Vector, ...]:
    """A network's vectors over channels; folded batch norms are biases here."""
    if not fold:
        return graph.vectors
    gone = {norm for _, norm in graph.folds}
    layers = [graph.layer(name) for name, _ in graph.folds]
    biases = (Vector(f"{la.name}.bias", 0, la.writes, 1, True) for la in layers if not la.bias)
    return (*(v for v in graph.vectors if v.name.rpartition(".")[0] not in gone), *biases)


def cut(model: nn.Module, graph: Graph, plan: Plan, solve: Solve = drop) -> nn.Module:
    """A new, trainable, physically smaller network, verified against the graph; the dense one is not touched.

    Raises:
        PlanError: for a plan that does not fit the graph.
        TraceError: if the smaller network does not compute with exactly the kept channels.
    """
    network = Surgeon(model, graph, fold=False).cut(plan, solve)
    verify(network, graph, graph.mask(plan.kept))
    return network


def cut_weight(layer: Layer, weight: Tensor, mask: NDArray[np.bool_], solve: Solve) -> Tensor:
    """A layer's weights on the rows and columns of kept atoms.

    Args:
        layer: of the graph.
        weight: its dense weights.
        mask: ``(atoms,)`` bool, true where an atom is kept.
        solve: computes the weights on the kept columns.
    """
    reads, writes = torch.from_numpy(mask[layer.reads]), torch.from_numpy(mask[layer.writes])
    if layer.kind == "depthwise":
        return weight[writes]
    if layer.kind == "transposed":  # (in, out / groups, ...), and all groups keep the same positions
        return weight[reads][:, writes[: weight.size(1)]]
    (solved,) = _solve_columns([(layer, weight, reads, writes)], solve)
    return solved


def _solve_columns(jobs: Sequence[tuple[Layer, Tensor, Tensor, Tensor]], solve: Solve) -> Iterator[Tensor]:
    """The cut weights of each job; a job is a layer with the arguments of `problems_of`."""
    solved = iter(solve(problem for job in jobs for problem, _ in problems_of(*job)))
    for layer, weight, *_ in jobs:
        parts = list(islice(solved, layer.groups))
        yield torch.cat(parts).unflatten(1, (-1, *weight.shape[2:])) if weight.ndim > 2 else parts[0]


def problems_of(
    layer: Layer, weight: Tensor, reads: Tensor, writes: Tensor
) -> Iterator[tuple[Problem, Tensor]]:
    """The problem of each channel group of a layer, and the kept rows of the group.

    Args:
        layer: of the graph.
        weight: its dense weights.
        reads: ``(c_in,)`` bool, the kept inputs.
        writes: ``(c_out,)`` bool, the kept outputs.
    """
    columns = reads.view(layer.groups, -1).repeat_interleave(layer.taps, dim=1)
    parts = writes.view(layer.groups, -1)
    for block, (part, column) in enumerate(zip(parts, columns, strict=True)):
        rows = part.nonzero().flatten() + block * parts.size(1)
        kept = weight if len(rows) == len(weight) else weight[rows]
        yield Problem(layer, block, kept.flatten(1), column.nonzero().flatten()), rows


def cut_shape(layer: Layer, mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """The shape of the result of `cut_weight`; ``mask`` is ``(atoms,)`` bool, true where an atom is kept."""
    reads, writes = int(mask[layer.reads].sum()), int(mask[layer.writes].sum())
    if layer.kind == "linear":
        return writes, reads
    if layer.kind == "transposed":
        return reads, writes // layer.groups, *layer.kernel
    return writes, 1 if layer.kind == "depthwise" else reads // layer.groups, *layer.kernel


def resize(module: nn.Module, layer: Layer, mask: NDArray[np.bool_]) -> None:
    """Set a module's numbers of channels to those of its cut weights.

    Args:
        module: of the layer; changed in place.
        layer: of the graph.
        mask: ``(atoms,)`` bool, true where an atom is kept.
    """
    reads, writes = int(mask[layer.reads].sum()), int(mask[layer.writes].sum())
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = reads, writes
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.in_channels, module.out_channels = reads, writes
        module.groups = reads if layer.kind == "depthwise" else layer.groups
