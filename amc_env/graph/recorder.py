"""The tracer that builds a `Graph`."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.graph.given import Given
from amc_env.graph.labels import Size, Source, TraceError, compact
from amc_env.graph.layers import depthwise, unchanged
from amc_env.graph.partition import Partition, find_groups
from amc_env.graph.structure import Atoms, Graph, Layer, Vector


@dataclass
class _Call:
    """A layer met during tracing; its labels are the recorder's numbers, not yet atoms."""

    module: nn.Module
    reads: Tensor
    writes: Tensor
    in_size: Size
    out_size: Size
    calls: int = 1


@dataclass
class Recorder:
    """Emits fresh labels, unifies them, and builds the graph from what it recorded."""

    model: nn.Module
    shape: tuple[int, int, int]
    given: Given
    keep_whole: Mapping[str, Sequence[str]] = field(default_factory=dict)  # a module's name: its layers
    labels: Partition = field(default_factory=Partition)
    calls: dict[str, _Call] = field(default_factory=dict)
    vectors: dict[str, tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    blanks: list[Tensor] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    kept: list[tuple[Tensor, str]] = field(default_factory=list)
    sources: list[tuple[Source | None, str]] = field(default_factory=list)
    fixed_macs: int = 0
    channels_last: bool = True
    place: Callable[[], str] = str
    outputs: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def set_place(self, place: Callable[[], str]) -> None:
        """Keep it for the notes."""
        self.place = place

    def vector_dim(self, name: str) -> int | None:
        """None: the sizes of the dense network show it."""
        return None

    def layer(self, name: str, module: nn.Module, reads: Tensor, in_size: Size, out_size: Size) -> Tensor:
        """Fresh labels, or those of the first call; a depthwise convolution passes on what it reads."""
        if name in self.calls:
            return self._again(self.calls[name], reads, in_size, out_size)
        if depthwise(module) and isinstance(module, nn.ConvTranspose2d):
            raise TraceError(f"{name!r} is transposed and depthwise; use an upsampling and a convolution")
        width = int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]
        writes = reads.repeat_interleave(width // len(reads)) if depthwise(module) else self._fresh(width)
        self.calls[name] = _Call(module, reads, writes, in_size, out_size)
        for asked, layers in self.keep_whole.items():
            if name in layers:
                self.kept.append((torch.cat([reads, writes]), f"{asked}: keep_whole"))
        if isinstance(module.bias, Tensor):
            self.vector(f"{name}.bias", module.bias, 0, writes)
        return writes

    def vector(self, name: str, value: Tensor, dim: int, ids: Tensor | None = None) -> Tensor:
        """Store a parameter's labels; those of a parameter that is used twice are unified."""
        if name in self.vectors:
            known = self.vectors[name][2]
            return known if ids is None else self.tie(known, ids)
        ids = self._fresh(value.size(dim)) if ids is None else ids
        if value.size(dim) != len(ids):
            raise TraceError(f"{name} has {value.size(dim)} entries for {len(ids)} channels")
        self.vectors[name] = (value, dim, ids)
        return ids

    def fixed_cost(self, macs: int) -> None:
        """Add its cost, which every plan pays."""
        self.fixed_macs += macs

    def fold(self, source: Source | None, norm: str) -> None:
        """Store both; whether anything else reads the layer is known only at the end."""
        self.sources.append((source, norm))

    def no_channels_last(self) -> None:
        """Store it for the graph."""
        self.channels_last = False

    def norm(self, weight: str) -> None:
        """Store its name."""
        self.norms.append(weight)

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Unify position by position."""
        pairs = torch.stack(torch.broadcast_tensors(compact(a), compact(b))).flatten(1)
        for one, other in zip(*pairs.tolist(), strict=True):
            self.labels.join(one, other)
        return a

    def keep(self, ids: Tensor, why: str) -> None:
        """Store the channels, with a note of where and why."""
        self.kept.append((compact(ids).flatten(), f"{self.place()}: {why}"))

    def blank(self, count: int) -> Tensor:
        """Fresh labels that stay, and need no note."""
        self.blanks.append(self._fresh(count))
        return self.blanks[-1]

    def number(self, value: float) -> None:
        """Store it for the `Checker`."""
        self.numbers.append(float(value))

    def finish(self, ids: Tensor) -> None:
        """Store the outputs, which always stay."""
        self.outputs = ids

    def _fresh(self, count: int) -> Tensor:
        return torch.tensor(self.labels.grow(count), dtype=torch.int64)

    def _again(self, call: _Call, reads: Tensor, in_size: Size, out_size: Size) -> Tensor:
        if (in_size, out_size) != (call.in_size, call.out_size):
            raise TraceError(
                f"the module runs on inputs of {call.in_size} and of {in_size}; give each size its own module"
            )
        call.calls += 1
        self.tie(call.reads, reads)
        return call.writes

    def graph(self) -> Graph:
        """Atoms are numbered in the order in which the forward pass first meets them."""
        _, atom_of = np.unique(self.labels.roots(), return_inverse=True)
        layers = tuple(_layer(name, call, atom_of) for name, call in self.calls.items())
        fixed = np.zeros(int(atom_of.max()) + 1, dtype=bool)
        for ids in (*self.blanks, self.outputs, *(ids for ids, _ in self.kept)):
            fixed[atom_of[ids.numpy()]] = True
        pinned = fixed.copy()
        groups = find_groups(layers, fixed)
        return Graph(
            layers=layers,
            vectors=tuple(_vector(name, *found, atom_of) for name, found in self.vectors.items()),
            groups=groups,
            folds=tuple(self._folds()),
            norms=tuple(dict.fromkeys(self.norms)),
            atoms=len(fixed),
            fixed=fixed,
            notes=tuple(dict.fromkeys(self._notes(layers, fixed & ~pinned))),
            fixed_params=self._fixed_params(),
            fixed_macs=self.fixed_macs,
            channels_last=self.channels_last,
            shape=self.shape,
            given=self.given,
            keep_whole=tuple(self.keep_whole),
            kept_layers=frozenset(chain.from_iterable(self.keep_whole.values())),
            blanks=tuple(atom_of[ids.numpy()] for ids in self.blanks),
            numbers=tuple(self.numbers),
            outputs=atom_of[self.outputs.numpy()],
        )

    def _notes(self, layers: Sequence[Layer], alone: NDArray[np.bool_]) -> Iterator[str]:
        """Why channels stay; those ``alone`` in their group, ``(atoms,)`` bool, stay without having to."""
        yield from (why for _, why in self.kept)
        for layer in layers:
            if layer.kind != "depthwise" and alone[layer.writes].any():
                yield f"{layer.name}: its channels can only be removed all at once"

    def _fixed_params(self) -> int:
        """The number of parameters that no decision changes."""
        counted = {f"{name}.weight" for name in self.calls} | set(self.vectors)
        part = f"{self.given.part}." if self.given.part else ""
        return sum(
            parameter.numel()
            for name, parameter in self.model.named_parameters()
            if name.startswith(part) and name not in counted
        )

    def _folds(self) -> Iterator[tuple[str, str]]:
        """Batch norms that read one layer and are its only reader; both run once, under one name."""
        runs = Counter(norm for _, norm in self.sources)
        names = Counter(id(module) for _, module in self.model.named_modules(remove_duplicate=False))
        for source, norm in self.sources:
            if source is None:
                continue
            modules = self.model.get_submodule(source.layer), self.model.get_submodule(norm)
            once = self.calls[source.layer].calls == runs[norm] == source.readers == 1
            plain = type(modules[0]) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
            if once and plain and all(names[id(m)] == 1 and unchanged(m) for m in modules):
                yield source.layer, norm


def _vector(name: str, value: Tensor, dim: int, ids: Tensor, atom_of: Atoms) -> Vector:
    size = value.numel() // value.size(dim)
    return Vector(name, dim, atom_of[ids.numpy()], size, isinstance(value, nn.Parameter))


def _layer(name: str, call: _Call, atom_of: Atoms) -> Layer:
    module, kind, kernel, stride, groups = call.module, "linear", (1, 1), 1, 1
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        kind = "transposed" if isinstance(module, nn.ConvTranspose2d) else "conv"
        kind = "depthwise" if depthwise(module) else kind
        kernel = (module.kernel_size[0], module.kernel_size[1])
        stride, groups = module.stride[0], module.groups
    reads, writes = atom_of[call.reads.numpy()], atom_of[call.writes.numpy()]
    return Layer(
        name, kind, kernel, stride, groups, call.in_size, call.out_size, call.calls,
        module.bias is not None, reads, writes,
    )  # fmt: skip
