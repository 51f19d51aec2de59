"""What a network's first layers gave is kept, and they are not run again for a plan that leaves them as they
were.

It is exact: the weights of a layer are of nothing but which of its channels stay, so that layers with the
same channels, on the same images, give the same values, and where the rest is run from these the logits are
the same bit for bit. Whether they are is tried once, at every point where a network could be entered; where
they are not, as before an operation in place, it never is.
"""

from collections.abc import Container
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from amc_env.compressors.surgery import Surgeon
from amc_env.graph.interpreter import write_down
from amc_env.graph.structure import Graph
from amc_env.modes import evaluating
from amc_env.plan import Plan


class Point(NamedTuple):
    """Where a network can be entered: behind the node of that number, whose value is all that is still read.

    ``atoms`` are those of all layers before.
    """

    node: int
    atoms: NDArray[np.intp]


Key = tuple[int, bytes]  # a point's node, and which of its atoms stay


class Prefixes:
    """Runs a surgeon's network, from the last point up to which it was run before on the same images.

    A value is kept the second time that it is computed, since most are needed once; the one that was used
    longest ago goes when all take more than ``limit`` bytes.

    Args:
        surgeon: of the network, cut to any plan without a repair; it is cut here.
        form: in which the network is run: itself, or what `amc_env.fusion` makes of it.
        images: a batch to try points on.
        limit: bytes.
    """

    def __init__(self, surgeon: Surgeon, form: nn.Module, images: Tensor, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        written = write_down(form) if form is surgeon.network else form.graph
        assert isinstance(written, fx.Graph)
        self._nodes = list(written.nodes)
        self._interpreter = fx.Interpreter(form, graph=written)
        self._interpreter.extra_traceback = False
        self._known: set[Key] = set()
        self._kept: dict[tuple[Key, int], Tensor] = {}  # and by the batch's number
        self._keys: list[Key] = []
        self.points = self._that_hold(surgeon, images)

    def enter(self, mask: NDArray[np.bool_]) -> None:
        """What is run from here on is cut to a plan that leaves these atoms, ``(atoms,)``."""
        self._keys = [(point.node, mask[point.atoms].tobytes()) for point in self.points]
        self._again = {key for key in self._keys if key in self._known}
        self._known.update(self._keys)

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """The logits of a batch, which is given the same number whenever it is run."""
        value, behind = images, -1
        for key in reversed(self._keys):
            if (key, number) in self._kept:
                value, behind = self._kept.pop((key, number)), key[0]
                self._kept[key, number] = value  # the one used last is at the end
                break
        wanted = {key[0]: key for key in self._keys if key[0] > behind and key in self._again}
        if behind < 0 and not wanted:
            whole: Tensor = self._interpreter.module(images)  # node by node it takes a few percent longer
            return whole
        logits, passed = self._run(value, behind, stops=wanted)
        for node, given in passed.items():
            self._keep(wanted[node], number, given)
        return logits

    def _run(self, value: Tensor, behind: int, *, stops: Container[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits from the value behind a node, -1 for the images; and the values behind others on the way."""
        env = self._interpreter.env = {}
        if behind < 0:
            self._interpreter.args_iter = iter((value,))
        else:
            env[self._nodes[behind]] = value
        passed = {}
        for number, node in enumerate(self._nodes[behind + 1 :], behind + 1):
            env[node] = self._interpreter.run_node(node)
            for used in self._interpreter.user_to_last_uses.get(node, ()):
                env.pop(used, None)
            if number in stops:
                passed[number] = env[node]
        return env[self._nodes[-1]], passed

    def _keep(self, key: Key, number: int, value: Tensor) -> None:
        self._kept[key, number] = value
        self.nbytes += value.nbytes
        while self.nbytes > self.limit:
            self.nbytes -= self._kept.pop(next(iter(self._kept))).nbytes

    def _that_hold(self, surgeon: Surgeon, images: Tensor) -> tuple[Point, ...]:
        """The points from which half the network gives the same logits, whenever it is entered there."""
        graph = surgeon.graph
        half = Plan(graph.hash, tuple(tuple(range(0, len(group), 2)) for group in graph.groups))
        network, found = surgeon.cut(half), points(self._nodes, graph)
        with evaluating(network):
            logits: Tensor = self._interpreter.module(images)
            again, values = self._run(images, -1, stops={point.node for point in found})
            if not torch.equal(again, logits):
                return ()

            def holds(point: Point) -> bool:
                found, _ = self._run(values[point.node], point.node, stops=())
                return torch.equal(found, logits)

            return tuple(point for point in found if holds(point) and holds(point))


def points(nodes: list[fx.Node], graph: Graph) -> tuple[Point, ...]:
    """Where one value is all that is still read, and the next node is a layer; the images left out."""
    layers = {layer.name: layer for layer in graph.layers}
    place = {node: number for number, node in enumerate(nodes)}
    last = [max((place[user] for user in node.users), default=-1) for node in nodes]
    found, atoms = [], np.empty(0, np.intp)
    for number, (node, following) in enumerate(pairwise(nodes)):
        if node.op == "call_module" and str(node.target) in layers:
            layer = layers[str(node.target)]
            atoms = np.unique(np.concatenate([atoms, layer.reads, layer.writes]))
        alone = [at for at in range(number + 1) if last[at] > number] == [number]
        enters = following.op == "call_module" and str(following.target) in layers
        if alone and enters and len(atoms):
            found.append(Point(number, atoms))
    return tuple(found)
