"""Finds which channels are removed together, and which of these sets make one decision."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amc_env.graph.structure import Atoms, Group, Layer


class Partition:
    """Disjoint sets of the numbers 0, 1, ... (union-find); the smallest number represents its set."""

    def __init__(self, count: int = 0) -> None:
        self._parent = list(range(count))

    def __len__(self) -> int:
        return len(self._parent)

    def grow(self, count: int) -> range:
        """Add ``count`` numbers, each in a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return range(start, start + count)

    def root(self, number: int) -> int:
        """The representative of a number's set."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Merge the sets of two numbers."""
        a, b = self.root(one), self.root(other)
        self._parent[max(a, b)] = min(a, b)

    def roots(self) -> Atoms:
        """``(numbers,)`` the representative of each number's set."""
        return np.array([self.root(number) for number in range(len(self))], dtype=np.int64)


def find_groups(layers: Sequence[Layer], fixed: NDArray[np.bool_]) -> tuple[Group, ...]:
    """The decisions, in consumer order; all free channels that one layer writes are in one group.

    Atoms that no layer reads, and those that are alone in their group, are marked as fixed.
    """
    sets = Partition(len(fixed))
    for layer in layers:
        free = layer.writes[~fixed[layer.writes]].tolist()
        for atom in free[1:]:
            sets.join(free[0], atom)
    of = np.where(fixed, -1, sets.roots())
    readers = _readers(layers, of)
    members = {at: np.flatnonzero(of == at) for at in np.unique(of[of >= 0]).tolist()}
    found = [(readers[at], atoms) for at, atoms in members.items() if at in readers and len(atoms) > 1]
    fixed[:] = True
    for _, atoms in found:
        fixed[atoms] = False
    found.sort(key=lambda item: (item[0][0], int(item[1][0])))
    widths = _widths(layers, of)
    return tuple(
        Group(index, atoms, tuple(readers), width, width // len(atoms))
        for index, (readers, atoms) in enumerate(found)
        for width in [max(int(widths[of[atoms[0]]]), len(atoms))]
    )


def _readers(layers: Sequence[Layer], of: Atoms) -> dict[int, list[int]]:
    """For each set, the layers that lose columns with it; a depthwise layer only loses rows."""
    readers: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.kind != "depthwise":
            for at in np.unique(of[layer.reads]).tolist():
                if at >= 0:
                    readers.setdefault(at, []).append(index)
    return readers


def _widths(layers: Sequence[Layer], of: Atoms) -> Atoms:
    """For each set, its channels in the layer that writes most of them."""
    widths = np.zeros(len(of), dtype=np.int64)
    for layer in layers:
        sets, counts = np.unique(of[layer.writes], return_counts=True)
        free = sets >= 0
        widths[sets[free]] = np.maximum(widths[sets[free]], counts[free])
    return widths
