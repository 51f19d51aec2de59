"""What compression needs to know about a CNN: its layers, and which channels are removed together.

The unit is an *atom*: a set of channels, anywhere in the network, that can only be removed together. The two
ends of a residual addition share their atoms position by position, and so do a convolution, its batch norm
and the depthwise convolution after it. Everything else follows from one boolean for each atom: a layer's
rows are those whose written atom stays, its columns those whose read atom stays.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from amc_env.graph.given import Given

Atoms = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """One convolution or linear layer of the dense network.

    Attributes:
        name: of the module.
        kind: "conv", "depthwise", "transposed" or "linear".
        kernel: height and width of the kernel; (1, 1) for linear.
        stride: of the convolution; 1 for linear.
        groups: of the convolution; 1 for linear.
        in_size: height and width of the input; (1, 1) for a vector.
        out_size: height and width of the output.
        calls: how often one forward pass runs it.
        bias: whether it has one.
        reads: ``(c_in,)`` the atom of each input channel.
        writes: ``(c_out,)`` the atom of each output channel.
    """

    name: str
    kind: str
    kernel: tuple[int, int]
    stride: int
    groups: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    calls: int
    bias: bool
    reads: Atoms
    writes: Atoms

    @property
    def c_in(self) -> int:
        """Input channels, or features, of the dense layer."""
        return len(self.reads)

    @property
    def c_out(self) -> int:
        """Output channels, or features, of the dense layer."""
        return len(self.writes)

    @property
    def taps(self) -> int:
        """Weights that join one input channel to one output channel: the area of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """Places in one image at which the kernel is applied, over all calls."""
        height, width = self.in_size if self.kind == "transposed" else self.out_size
        return height * width * self.calls


@dataclass(frozen=True, eq=False)
class Vector:
    """A parameter or buffer with an entry (along ``dim``) for each atom: batch norm, bias, layer scale."""

    name: str
    dim: int
    atoms: Atoms
    size: int  # numbers for one atom
    trainable: bool


@dataclass(frozen=True, eq=False)
class Group:
    """One decision: which of these atoms stay.

    ``atoms`` are in order of position; ``layers`` are the indices of the layers that read them, in forward
    order. ``width`` is the number of their channels in the layer that writes most of them, ``per_atom`` the
    number of channels of one atom there.
    """

    index: int
    atoms: Atoms
    layers: tuple[int, ...]
    width: int
    per_atom: int

    def __len__(self) -> int:
        return len(self.atoms)


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced network.

    Attributes:
        layers: in forward order.
        vectors: everything else that is cut with the channels.
        groups: the decisions, in the order of their first consumers.
        folds: pairs (layer name, batch norm name) in which the norm is the layer's only reader.
        norms: names of the weights of norms whose statistics run over channels.
        atoms: how many there are.
        fixed: ``(atoms,)`` bool, true where an atom is in no group: the image, the classes, and what must
            stay.
        notes: why some channels must stay, a line each.
        fixed_params: parameters of the compressed network or part that no decision changes.
        fixed_macs: multiply-accumulates, for one image, of layers that no plan cuts: one-dimensional
            convolutions, fixed kernels, weights that the forward computes.
        channels_last: whether images and weights may lie channels last in memory, which is faster; a forward
            with ``x.view(n, -1)`` takes the default format alone.
        shape: C, H, W of the image it was traced with.
        given: the arguments of the network, or of the part that is compressed, for that image. Names are
            those of the whole network.
        keep_whole: names of modules that the user keeps whole.
        kept_layers: names of the layers in them.
        blanks: atoms of the channels that no layer writes: the image, then all padding, in the order of the
            forward.
        numbers: plain numbers that operations take beside activations, in the order of the forward.
        outputs: ``(classes,)`` the atoms of the logits, or of all that a part returns.
    """

    layers: tuple[Layer, ...]
    vectors: tuple[Vector, ...]
    groups: tuple[Group, ...]
    folds: tuple[tuple[str, str], ...]
    norms: tuple[str, ...]
    atoms: int
    fixed: NDArray[np.bool_]
    notes: tuple[str, ...]
    fixed_params: int
    fixed_macs: int
    channels_last: bool
    shape: tuple[int, int, int]
    given: Given
    keep_whole: tuple[str, ...]
    kept_layers: frozenset[str]
    blanks: tuple[Atoms, ...]
    numbers: tuple[float, ...]
    outputs: Atoms

    @cached_property
    def hash(self) -> str:
        """Identifies the structure: a plan of one graph fits another exactly when their hashes are equal."""
        facts = [
            [layer.name, layer.kind, layer.kernel, layer.groups, layer.reads.tolist(), layer.writes.tolist()]
            for layer in self.layers
        ]
        groups = [group.atoms.tolist() for group in self.groups]
        return hashlib.sha256(json.dumps([facts, groups]).encode()).hexdigest()[:16]

    @cached_property
    def geometry(self) -> str:
        """Identifies what a pass costs: the structure, and on which sizes each layer runs, how often."""
        facts = [self.hash, [[layer.in_size, layer.out_size, layer.calls] for layer in self.layers]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @cached_property
    def group_of(self) -> Atoms:
        """``(atoms,)`` int64: the index of each atom's group, -1 for an atom that is in none."""
        groups = np.full(self.atoms, -1)
        for group in self.groups:
            groups[group.atoms] = group.index
        return groups

    @property
    def widest(self) -> int:
        """How many numbers the widest layer reads and writes for one image."""
        return max(
            layer.c_in * math.prod(layer.in_size) + layer.c_out * math.prod(layer.out_size)
            for layer in self.layers
        )

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    def consumer(self, group: Group) -> Layer:
        """The first layer that reads a group, where its decision is taken."""
        return self.layers[group.layers[0]]

    def mask(self, kept: Iterable[Iterable[int] | None]) -> NDArray[np.bool_]:
        """``(atoms,)`` bool: which atoms stay, given the kept positions of each group, None for all."""
        mask = np.ones(self.atoms, dtype=bool)
        for group, positions in zip(self.groups, kept, strict=True):
            if positions is not None:
                mask[group.atoms] = False
                mask[group.atoms[list(positions)]] = True
        return mask
