"""The two scribes: one writes a `Graph` down, the other holds a cut network against it."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from amc_env.graph import Atoms, Graph, Group, Layer, Vector
from amc_env.labels import TraceError, compact


@dataclass
class _Call:
    """A layer as it is met during tracing; labels are numbers of the recorder, not yet atoms."""

    module: nn.Module
    reads: Tensor
    writes: Tensor
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    node: fx.Node
    calls: int = 1


@dataclass
class Recorder:
    """Emits fresh labels, unifies them in a union-find, and makes the graph of what it heard."""

    model: nn.Module
    shape: tuple[int, int, int]
    parent: list[int] = field(default_factory=list)
    kept: list[tuple[Tensor, str]] = field(default_factory=list)
    calls: dict[str, _Call] = field(default_factory=dict)
    vectors: dict[str, tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node: fx.Node

    def image(self, shape: tuple[int, int, int]) -> Tensor:
        """The channels of the image are no decision."""
        ids = self.blank(shape[0])
        return ids.view(1, -1, 1, 1).expand(1, *shape)

    def blank(self, count: int) -> Tensor:
        """Labels that stay, and need no note."""
        ids = self._fresh(count)
        self.kept.append((ids, ""))
        return ids

    def layer(
        self, name: str, module: nn.Module, reads: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]
    ) -> Tensor:
        """Fresh labels, or those of the first call; a depthwise convolution passes on what it reads."""
        if name in self.calls:
            return self._again(self.calls[name], reads, in_size, out_size)
        width = len(module.weight)  # type: ignore[arg-type]
        if isinstance(module, nn.ConvTranspose2d):
            width = module.out_channels
        writes = reads.repeat_interleave(width // len(reads)) if depthwise(module) else self._fresh(width)
        self.calls[name] = _Call(module, reads, writes, in_size, out_size, self.node)
        if getattr(module, "bias", None) is not None:
            self.vector(f"{name}.bias", module.bias, 0, writes)  # type: ignore[arg-type]
        return writes

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor) -> None:
        """Ties the labels of a parameter that is used twice."""
        if name in self.vectors:
            self.tie(self.vectors[name][2], ids)
        elif value.size(dim) != len(ids):
            raise TraceError(f"{name} has {value.size(dim)} entries for {len(ids)} channels")
        else:
            self.vectors[name] = (value, dim, ids)

    def norm(self, name: str) -> None:
        """Its statistics run over what is kept."""
        self.norms.append(name)

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Unify position by position."""
        pairs = torch.stack(torch.broadcast_tensors(compact(a), compact(b))).flatten(1)
        for left, right in zip(*pairs.tolist(), strict=True):
            one, other = self._root(left), self._root(right)
            self.parent[max(one, other)] = min(one, other)
        return a

    def keep(self, ids: Tensor, why: str) -> None:
        """Note where and why."""
        self.kept.append((compact(ids).flatten(), f"{self.node.name}: {why}"))

    def finish(self, ids: Tensor) -> None:
        """The classes stay."""
        self.kept.append((compact(ids).flatten(), ""))

    def _fresh(self, count: int) -> Tensor:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _again(
        self, call: _Call, reads: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]
    ) -> Tensor:
        if (in_size, out_size) != (call.in_size, call.out_size):
            raise TraceError(
                f"the module is run on inputs of {call.in_size} and of {in_size}; give each resolution a module of its own"
            )
        call.calls += 1
        self.tie(call.reads, reads)
        return call.writes

    def graph(self) -> Graph:
        """Atoms are numbered in the order in which the forward pass first meets them."""
        roots = np.array([self._root(label) for label in range(len(self.parent))])
        _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        atom_of: Atoms = rank[inverse].astype(np.int64)

        def atoms(ids: Tensor) -> Atoms:
            return atom_of[ids.numpy()]

        layers = tuple(
            _layer(name, call, atoms(call.reads), atoms(call.writes)) for name, call in self.calls.items()
        )
        fixed = np.zeros(len(first), dtype=bool)
        for ids, _ in self.kept:
            fixed[atoms(ids)] = True
        vectors = tuple(
            Vector(name, dim, atoms(ids), value.numel() // value.size(dim), isinstance(value, nn.Parameter))
            for name, (value, dim, ids) in self.vectors.items()
        )
        groups = find_groups(layers, fixed)
        counted = {f"{layer.name}.weight" for layer in layers} | set(self.vectors)
        return Graph(
            layers, vectors, groups, self._folds(), tuple(dict.fromkeys(self.norms)), len(first), fixed,
            tuple(dict.fromkeys(why for _, why in self.kept if why)),
            sum(p.numel() for name, p in self.model.named_parameters() if name not in counted), self.shape,
        )  # fmt: skip

    def _folds(self) -> tuple[tuple[str, str], ...]:
        found = []
        for name, call in self.calls.items():
            users = list(call.node.users)
            if call.calls == 1 and len(users) == 1 and users[0].op == "call_module":
                norm = self.model.get_submodule(str(users[0].target))
                runs = [
                    n for n in users[0].graph.nodes if n.op == "call_module" and n.target == users[0].target
                ]
                if (
                    isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
                    and norm.track_running_stats
                    and len(runs) == 1
                ):
                    found.append((name, str(users[0].target)))
        return tuple(found)


@dataclass
class Checker:
    """Holds a cut network against its graph: each layer must read and write exactly the atoms that stayed.

    Labels are atoms here; what is tied must already be equal. So a network that does something with channel numbers
    that tracing did not see is refused before it computes anything.
    """

    graph: Graph
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self.node: fx.Node
        self.layers = {layer.name: layer for layer in self.graph.layers}

    def image(self, shape: tuple[int, int, int]) -> Tensor:
        """The first atoms are those of the image."""
        return torch.arange(shape[0]).view(1, -1, 1, 1).expand(1, *shape)

    def blank(self, count: int) -> Tensor:
        """Padding may meet anything."""
        return torch.full((count,), -1)

    def layer(
        self, name: str, module: nn.Module, reads: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]
    ) -> Tensor:
        """Exactly what stayed, in order."""
        layer = self.layers[name]
        expected = torch.from_numpy(layer.reads[self.mask[layer.reads]])
        self._equal(expected, reads, f"layer {name!r} reads other channels than were kept for it")
        return torch.from_numpy(layer.writes[self.mask[layer.writes]])

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor) -> None:
        """One entry for each channel."""
        if value.size(dim) != len(ids):
            raise TraceError(f"{name} has {value.size(dim)} entries for {len(ids)} channels")

    def norm(self, name: str) -> None:
        """Nothing to hold against."""

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Equal, but for padding."""
        a, b = torch.broadcast_tensors(a, b)
        self._equal(compact(a), compact(b), "channels meet that were not kept together")
        return torch.where(compact(a) < 0, compact(b), compact(a)).expand(a.shape)

    def keep(self, ids: Tensor, why: str) -> None:
        """Was seen by the recorder."""

    def finish(self, ids: Tensor) -> None:
        """Was seen by the recorder."""

    def _equal(self, a: Tensor, b: Tensor, what: str) -> None:
        same = a.shape == b.shape or torch.broadcast_shapes(a.shape, b.shape)
        if not same or not bool(((a == b) | (a < 0) | (b < 0)).all()):
            raise TraceError(f"{what}; this network uses channel counts in a way that tracing cannot follow")


def depthwise(module: nn.Module) -> bool:
    """Whether each output channel reads one input channel of its own."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def find_groups(layers: tuple[Layer, ...], fixed: NDArray[np.bool_]) -> tuple[Group, ...]:
    """Channels of one layer are one decision, and so are channels that share an atom; in consumer order.

    Atoms that no layer reads, and those that stand alone in their group, are marked as fixed.
    """
    parent = np.arange(len(fixed))

    def root(atom: int) -> int:
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = int(parent[atom])
        return atom

    for layer in layers:
        free = layer.writes[~fixed[layer.writes]]
        for atom in free[1:]:
            one, other = root(int(free[0])), root(int(atom))
            parent[max(one, other)] = min(one, other)
    roots = np.array([root(atom) for atom in range(len(fixed))])
    found: list[tuple[tuple[int, ...], Atoms]] = []
    for at in np.unique(roots[~fixed]):
        atoms = np.flatnonzero((roots == at) & ~fixed)
        readers = tuple(
            i
            for i, layer in enumerate(layers)
            if layer.kind != "depthwise" and np.isin(layer.reads, atoms).any()
        )
        if readers and len(atoms) > 1:
            found.append((readers, atoms))
        else:
            fixed[atoms] = True
    found.sort(key=lambda item: (item[0][0], int(item[1][0])))
    return tuple(
        Group(index, atoms, readers, *_width(layers, atoms)) for index, (readers, atoms) in enumerate(found)
    )


def _width(layers: tuple[Layer, ...], atoms: Atoms) -> tuple[int, int]:
    """Channels of this group in the layer that writes most of them, and how many of them each atom holds."""
    width = max(int(np.isin(layer.writes, atoms).sum()) for layer in layers)
    return width, max(1, width // len(atoms))


def _layer(name: str, call: _Call, reads: Atoms, writes: Atoms) -> Layer:
    module = call.module
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        kind = (
            "depthwise"
            if depthwise(module)
            else "transposed"
            if isinstance(module, nn.ConvTranspose2d)
            else "conv"
        )
        kernel, stride, groups = (
            (module.kernel_size[0], module.kernel_size[1]),
            module.stride[0],
            module.groups,
        )
    else:
        kind, kernel, stride, groups = "linear", (1, 1), 1, 1
    return Layer(
        name, kind, kernel, stride, groups, call.in_size, call.out_size, call.calls, bias, reads, writes
    )
