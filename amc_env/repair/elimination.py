"""Orders channels by backward elimination: by the least-squares error of all layers that read them.

*Source*: the block form of Optimal Brain Surgeon (Hassibi & Stork, 1993) as Frantar & Alistarh, "Optimal
Brain Compression", NeurIPS 2022, use it for columns of a layer; whole channels as in Meng et al., "OSSCAR",
ICML 2024. The channels of a group are removed one by one, each time the one whose removal raises the error
least when all remaining weights are refitted. So the kept sets are nested, and one order describes them all.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from amc_env.cost import Ints
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet
from amc_env.graph.structure import Graph, Group, Layer
from amc_env.repair.cache import cached
from amc_env.repair.moments import Moments, collect_cached

FORMAT = 5  # of cache files
LAZY = 128  # columns that are removed before whole matrices are brought up to date, in one product
INVERTED = 8192  # columns up to which a matrix is inverted; beyond, channels of a layer are judged one by one


class Reader:
    """The least-squares problem of one layer that reads a group, while channels of the group are removed.

    With H = E[x xᵀ] + ridge, P = H⁻¹ and the current weights W, removing the columns b of one channel raises
    tr((W - V) H (W - V)ᵀ) by tr(W_b (P_bb)⁻¹ W_bᵀ), if V is the best on what stays. Then
    W -= W_b (P_bb)⁻¹ P_b: and P -= P_:b (P_bb)⁻¹ P_b:.

    Of W only S = Wᵀ W is needed. P and S change by matrices of rank m and 2m; these are gathered, as
    P = P₀ - U Uᵀ and S = S₀ - U Zᵀ - Z Uᵀ, and at each step only the blocks on the diagonals are brought up
    to date. Columns that are never candidates need no row of either.

    Args:
        weight: ``(blocks, out, d)`` the layer's weights, a block for each of its channel groups.
        gram: ``(blocks, d, d)`` float64, E[x xᵀ].
        columns: ``(n, m)`` int64: for each channel of the group its columns, the same in every block; -1
            fills up.
        ridge: as a fraction of the mean diagonal of each block.
    """

    def __init__(self, weight: Tensor, gram: Tensor, columns: Tensor, ridge: float) -> None:
        self.n, self.m = columns.shape
        flat, dense = columns.flatten(), weight.double()
        place = (flat >= 0).nonzero().flatten()
        at = flat[place]
        energy = ((dense @ gram) * dense).sum()  # E|W x|²
        scale = energy if energy > 0 else 1.0  # of inputs that are all zero any order will do
        unit = power_of_four(gram.diagonal(dim1=1, dim2=2).mean(1))[:, None, None]
        self._inverse = torch.eye(len(flat), dtype=torch.float64).repeat(len(gram), 1, 1)
        self._inverse[:, place[:, None], place] = damped_inverse(gram / unit, ridge)[:, at[:, None], at]
        self._square = torch.zeros_like(self._inverse)
        own = dense[:, :, at]
        self._square[:, place[:, None], place] = own.mT @ own / scale * unit
        self._begin()

    def increases(self) -> Tensor:
        """``(n,)``, the error that removing each channel adds, as a fraction of E|W x|²."""
        if self.m == 1:
            return (self._weights / self._widths)[:, :, 0, 0].sum(0)
        solved = torch.cholesky_solve(self._weights, torch.linalg.cholesky(self._widths))
        return solved.diagonal(dim1=2, dim2=3).sum((0, 2))

    def remove(self, channel: int) -> None:
        """Remove a channel's columns and refit the others."""
        own = slice(channel * self.m, (channel + 1) * self.m)
        u, z = self._u[:, :, : self._used], self._z[:, :, : self._used]
        inverse = self._inverse[:, own] - u[:, own] @ u.mT  # (blocks, m, size): P_b: as it is now
        square = self._square[:, own] - u[:, own] @ z.mT - z[:, own] @ u.mT
        factor = torch.linalg.cholesky(self._widths[:, channel])
        removed = torch.linalg.solve_triangular(factor, inverse, upper=False).mT
        joint = torch.linalg.solve_triangular(factor, square, upper=False).mT
        inner = torch.linalg.solve_triangular(factor, joint[:, own], upper=False)
        joint = joint - removed @ inner / 2
        self._u[:, :, self._used : self._used + self.m] = removed
        self._z[:, :, self._used : self._used + self.m] = joint
        self._used += self.m
        left, right = removed.unflatten(1, (self.n, self.m)), joint.unflatten(1, (self.n, self.m))
        cross = left @ right.mT
        self._widths -= left @ left.mT
        self._weights -= cross + cross.mT
        self._widths[:, channel] = torch.eye(self.m, dtype=torch.float64)

    def compact(self, stays: Tensor) -> None:
        """Update both matrices, for the remaining channels ``(k,)``."""
        at = (stays[:, None] * self.m + torch.arange(self.m)).flatten()
        u, z = self._u[:, at, : self._used], self._z[:, at, : self._used]
        self._inverse = self._inverse[:, at[:, None], at].baddbmm_(u, u.mT, alpha=-1)
        self._square = (
            self._square[:, at[:, None], at].baddbmm_(u, z.mT, alpha=-1).baddbmm_(z, u.mT, alpha=-1)
        )
        self.n = len(stays)
        self._begin()

    def _begin(self) -> None:
        """Reset the pending updates."""
        self._widths, self._weights = self._on_diagonal(self._inverse), self._on_diagonal(self._square)
        size = (*self._inverse.shape[:2], steps(self.m) * self.m)
        self._u, self._z = torch.empty(size, dtype=torch.float64), torch.empty(size, dtype=torch.float64)
        self._used = 0

    def _on_diagonal(self, whole: Tensor) -> Tensor:
        """``(blocks, n, m, m)``, the diagonal blocks of a matrix, one a channel."""
        size = (self.n, self.m)
        parts: Tensor = whole.unflatten(2, size).unflatten(1, size).diagonal(dim1=1, dim2=3)
        return parts.permute(0, 3, 1, 2).contiguous()


def steps(columns: int) -> int:
    """The number of channels to remove between updates of whole matrices."""
    return max(1, LAZY // columns)


def power_of_four(sizes: Tensor) -> Tensor:
    """``(n,)`` for each size a power of four near it, 1 for 0; to divide a matrix by it changes no digit.

    Without that the rows of removed channels, which are zero up to rounding, would exceed the ones on the
    diagonal where inputs are tiny.
    """
    return torch.from_numpy(np.ldexp(1.0, np.frexp(sizes.numpy())[1] // 2 * 2))


def damped_inverse(gram: Tensor, ridge: float) -> Tensor:
    """Inverses of ``(blocks, d, d)``, after a fraction of the mean diagonal is added to each diagonal."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    added = torch.where(mean > 0, ridge * mean, 1.0)  # of a layer that reads zeros alone, any order is best
    damped = gram + added[:, None, None] * torch.eye(gram.size(1), dtype=gram.dtype)
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return inverse


def eliminate(readers: list[Reader], count: int, alone: Tensor) -> list[int]:
    """The channels of a group, the most important first; they are removed from the end.

    Args:
        readers: of the group.
        count: its channels.
        alone: ``(count,)`` float64, the part of a channel's error that does not depend on other channels.
    """
    left, gone = torch.arange(count), []
    cost = torch.zeros(count, dtype=torch.float64)  # infinite where a channel is gone already
    most = steps(max((reader.m for reader in readers), default=1))
    while len(left) > 1:
        for _ in range(min(most, len(left) - 1)):
            worth = cost + alone[left]
            for reader in readers:
                worth = worth + reader.increases()
            channel = int(worth.argmin())
            for reader in readers:
                reader.remove(channel)
            cost[channel] = torch.inf
            gone.append(int(left[channel]))
        stays = cost.isfinite().nonzero().flatten()
        for reader in readers:
            reader.compact(stays)
        left, cost = left[stays], cost[stays]
    return [int(left[0]), *reversed(gone)]


def orders(model: nn.Module, graph: Graph, moments: Moments) -> list[Ints]:
    """For each group its positions, the most important first; they are removed from the end.

    Args:
        model: the dense network.
        graph: of it.
        moments: of it, on the processor.
    """
    found: list[Ints] = []
    for group in graph.groups:
        readers, alone = [], torch.zeros(len(group), dtype=torch.float64)
        for name, weight, columns in reading(model, graph, group):
            if is_wide(weight):
                alone += without(weight, moments, name, columns)
            else:
                ridge = moments.damping(name, weight.size(2))
                readers.append(Reader(weight, moments.gram(name), columns, ridge))
        found.append(np.array(eliminate(readers, len(group), alone), dtype=np.int64))
    return found


def orders_cached(
    model: nn.Module, graph: Graph, data: DataSet | OwnData, *, images: int, points: int, seed: int
) -> list[Ints]:
    """`orders` from the moments of that sampling, cached on disk beside them."""
    sampling = {"images": images, "points": points, "seed": seed}

    def make() -> dict[str, Tensor]:
        found = orders(model, graph, collect_cached(model, graph, data, **sampling, every=False))
        return {str(index): torch.from_numpy(order) for index, order in enumerate(found)}

    stored = cached(f"orders-{FORMAT}", make, model, graph, data, **sampling)
    return [stored[str(index)].numpy() for index in range(len(graph.groups))]


def dropped(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``(n,)``, the error of a layer's outputs without each channel and without refitting, over E|W x|².

    Args:
        weight: ``(blocks, out, d)``.
        rows: ``(blocks, samples, d)`` of its input.
        columns: ``(n, m)``, -1 where a channel has none.
    """
    whole = (rows @ weight.mT).double().square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    lost = [
        (rows[:, :, own[own >= 0]] @ weight[:, :, own[own >= 0]].mT).double().square().sum()
        for own in columns
    ]
    return torch.stack(lost) / whole


def without(weight: Tensor, moments: Moments, name: str, columns: Tensor) -> Tensor:
    """`dropped` from a layer's rows, or from its Gram matrix where it has more rows than inputs."""
    if name in moments.rows:
        return dropped(weight, moments.rows[name], columns)
    gram, wide = moments.grams[name], weight.double()
    whole = ((wide @ gram) * wide).sum().clamp_min(torch.finfo(torch.float64).tiny)
    lost = []
    for own in (each[each >= 0] for each in columns):
        part = wide[:, :, own]
        lost.append(((part @ gram[:, own[:, None], own]) * part).sum())
    return torch.stack(lost) / whole


def is_wide(weight: Tensor) -> bool:
    """Whether ``(blocks, out, d)`` has too many inputs to invert a matrix of them."""
    return weight.size(2) > INVERTED


def reading(model: nn.Module, graph: Graph, group: Group) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The name of each layer that reads a group, its `weight_blocks`, and its `columns_of` the group."""
    for layer in (graph.layers[index] for index in group.layers):
        weight = model.get_parameter(f"{layer.name}.weight").detach().cpu()
        yield layer.name, weight_blocks(layer, weight), columns_of(layer, group)


def weight_blocks(layer: Layer, weight: Tensor) -> Tensor:
    """``(groups, out, d)``; a transposed convolution maps each input pixel to a patch of outputs."""
    blocks: Tensor = weight.flatten(1).unflatten(0, (layer.groups, -1))
    return blocks.mT if layer.kind == "transposed" else blocks


def columns_of(layer: Layer, group: Group) -> Tensor:
    """``(len(group), m)``, the columns of each position in a block of a layer's weights, padded with -1."""
    taps = 1 if layer.kind == "transposed" else layer.taps
    reads = layer.reads.reshape(layer.groups, -1)  # the same atoms in each block
    own = [np.flatnonzero(reads[0] == atom) for atom in group.atoms]
    columns = np.full((len(group), max(map(len, own)), taps), -1)
    for row, channels in zip(columns, own, strict=True):
        row[: len(channels)] = channels[:, None] * taps + np.arange(taps)
    return torch.from_numpy(columns.reshape(len(group), -1))
