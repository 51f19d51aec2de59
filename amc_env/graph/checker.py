"""The tracer that checks a cut network against the graph of the dense one."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.graph.labels import Size, TraceError, compact
from amc_env.graph.running import propagate
from amc_env.graph.structure import Atoms, Graph

ADVICE = (
    "This network uses channel counts in a way that tracing cannot follow: for a reshape compute them from "
    "x.size(1), use chunk instead of slices; take numbers that depend on them, and choices of branches by "
    "equal sizes, in the constructor; or keep such a part out of the network that is compressed"
)

CLOSURE = (
    "A forward that was replaced on the instance by a closure still runs the dense network: bind it with "
    "types.MethodType(function, model)"
)


def verify(cut: nn.Module, graph: Graph, mask: NDArray[np.bool_]) -> None:
    """Raise a `TraceError` unless a cut network computes with exactly the channels that stayed.

    Args:
        cut: the smaller network, not folded.
        graph: of the dense one.
        mask: ``(atoms,)`` bool, which atoms stayed.
    """
    try:
        propagate(cut, Checker(graph, mask), graph.given)
    except TraceError as error:
        closed = any(not isinstance(forward, MethodType) for forward in _replaced(cut))
        raise TraceError(f"{error}. {CLOSURE if closed else ADVICE}") from error


def _replaced(network: nn.Module) -> Iterator[Any]:
    """Forward functions that were set on module instances."""
    return (vars(module)["forward"] for module in network.modules() if "forward" in vars(module))


@dataclass
class Checker:
    """Checks that each layer reads, and each parameter and operation meets, exactly the kept atoms, in order.

    Labels are atoms here, and labels that are tied must already be equal. A network that uses channel counts
    in a way that tracing did not see is therefore refused before it computes anything.
    """

    graph: Graph
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self._layers = {layer.name: layer for layer in self.graph.layers}
        self._dims = {vector.name: vector.dim for vector in self.graph.vectors if len(vector.atoms) > 1}
        self._vectors = {vector.name: vector.atoms for vector in self.graph.vectors}
        self._blanks = iter(self.graph.blanks)
        self._numbers = iter(self.graph.numbers)
        self._left_out = set(self._layers)

    def _nothing(self, *_: object, **__: object) -> None:
        """Nothing to check: these channels always stay, or errors name the place themselves."""

    set_place = fixed_cost = fold = no_channels_last = norm = keep = _nothing

    def vector_dim(self, name: str) -> int | None:
        """The dimension in the dense network, where the parameter may have more entries."""
        return self._dims.get(name)

    def layer(self, name: str, module: nn.Module, reads: Tensor, in_size: Size, out_size: Size) -> Tensor:
        """Check the atoms that the layer reads; the kept atoms that it writes."""
        if name not in self._layers:
            raise TraceError(f"{name!r} runs in the cut network alone")
        layer = self._layers[name]
        self._left_out.discard(name)
        self._same(self._left(layer.reads), reads, f"{name!r} reads other channels than were kept for it")
        if (in_size, out_size) != (layer.in_size, layer.out_size):
            raise TraceError(f"{name!r} runs on {in_size}, in the dense network on {layer.in_size}")
        return self._left(layer.writes)

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor | None = None) -> Tensor:
        """Check that there is one entry for each kept channel."""
        left = self._left(self._vectors[name])
        if value.size(dim) != len(left):
            raise TraceError(f"{name} has {value.size(dim)} entries for {len(left)} channels")
        if ids is not None:
            self._same(left, ids, f"{name} meets other channels than were kept for it")
        return left

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Check that both are equal; a single channel that always stays may be broadcast over the others."""
        for one, other in ((a, b), (b, a)):
            small = compact(one)
            if small.numel() == 1 and self.graph.fixed[int(small)]:
                return other
        self._same(compact(a), compact(b), "channels meet that were not kept together")
        return a

    def blank(self, count: int) -> Tensor:
        """The atoms that the recorder gave to these channels."""
        atoms = next(self._blanks, np.empty(0, dtype=np.int64))
        if len(atoms) != count:
            raise TraceError(f"{count} blank channels, {len(atoms)} in the dense network")
        return torch.from_numpy(atoms)

    def number(self, value: float) -> None:
        """Check that the dense network has the same number here."""
        if value != next(self._numbers, None):
            raise TraceError(f"the values depend on the number of channels, here {value}")

    def finish(self, ids: Tensor) -> None:
        """Check that the outputs are those of the dense network."""
        if self._left_out:
            raise TraceError(f"{min(self._left_out)!r} does not run in the cut network")
        if next(self._numbers, None) is not None or next(self._blanks, None) is not None:
            raise TraceError("how much is computed depends on the number of channels")
        self._same(self._left(self.graph.outputs), ids, "the outputs are not the classes")

    def _left(self, atoms: Atoms) -> Tensor:
        return torch.from_numpy(atoms[self.mask[atoms]])

    def _same(self, a: Tensor, b: Tensor, what: str) -> None:
        if a.shape != b.shape or not bool((a == b).all()):
            raise TraceError(what)
