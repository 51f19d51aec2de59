"""Predicts the error of each layer, and the rise of the loss, when inputs are removed."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from amc_env.compressors import Errors
from amc_env.cost import Ints
from amc_env.graph.structure import Graph, Group
from amc_env.repair.elimination import INVERTED, reading, without
from amc_env.repair.information import Information
from amc_env.repair.moments import Moments


def errors(
    model: nn.Module, graph: Graph, moments: Moments, orders: Sequence[Ints], choices: Sequence[Ints]
) -> Errors:
    """For each group and count, the sum over its layers of E|W x - V x_kept|² / E|W x|² with the best V.

    All other groups are whole. If one layer reads a group of 4 channels, and loses a third of its outputs'
    energy with 1 channel and a tenth with 3, counts (1, 3, 4) give (0.33, 0.1, 0); two such layers give twice
    as much.

    Args:
        model: the dense network.
        graph: of it.
        moments: of it, on the processor.
        orders: for each group its positions, the most important first.
        choices: for each group the counts, ascending.
    """
    found = []
    for group, order, counts in zip(graph.groups, orders, choices, strict=True):
        layers = _reading(model, graph, group, order)
        total = _at(counts, [_lost(weight, moments, name, columns) for name, weight, columns in layers])
        found.append(total)
    return found


def losses(
    model: nn.Module,
    graph: Graph,
    moments: Moments,
    known: Information,
    orders: Sequence[Ints],
    choices: Sequence[Ints],
) -> Errors | None:
    """For each group and count, the rise of the loss in nats that the errors of its layers predict.

    It is half of E[eᵀ F e], summed over layers, with e the errors of a layer's outputs with the best weights
    and F their Fisher information; all other groups are whole. It holds for small errors, and leaves out
    that later layers are repaired as well.

    Args:
        model: see `errors`, like all that follow.
        graph: of it.
        moments: of it.
        known: the information of each layer's outputs.
        orders: of its groups.
        choices: of its groups.

    Returns:
        None where the information of a layer is unknown.
    """
    found = []
    for group, order, counts in zip(graph.groups, orders, choices, strict=True):
        curves = []
        for name, weight, columns in _reading(model, graph, group, order):
            if name not in known:
                return None
            scaled = _scaled(weight, known[name])
            curves.append(_lost(scaled, moments, name, columns) * _energy(scaled, moments, name) / 2)
        found.append(_at(counts, curves))
    return found


def _reading(
    model: nn.Module, graph: Graph, group: Group, order: Ints
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """`reading`, with the columns in the order of the group."""
    for name, weight, columns in reading(model, graph, group):
        yield name, weight, columns[torch.from_numpy(order)]


def _scaled(weight: Tensor, known: Tensor) -> Tensor:
    """Rᵀ W of each block ``(blocks, out, d)`` float64, where R Rᵀ is the information of the block's outputs.

    A block of a transposed convolution has several outputs a channel, whose information is equal.
    """
    blocks, channels = len(weight), len(known) // len(weight)
    own = known.double().view(blocks, channels, blocks, channels).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    values, vectors = torch.linalg.eigh(own)
    root = vectors * values.clamp_min(0).sqrt()[:, None]  # rounding may make a value negative
    parts = weight.double().unflatten(1, (channels, -1))  # (blocks, channels, outputs of each, d)
    return torch.einsum("bij,biod->bjod", root, parts).flatten(1, 2)


def _lost(weight: Tensor, moments: Moments, name: str, columns: Tensor) -> Tensor:
    """``(n,)``, the error with the first 1 to n channels, as a fraction of E|W x|²."""
    if weight.size(2) > INVERTED:
        added = without(weight, moments, name, columns)
    else:
        added = increments(weight, moments.gram(name), columns, moments.damping(name, weight.size(2)))
    lost = (added.sum() - added.cumsum(0)).clamp(0, 1)
    lost[-1] = 0  # not the rounding error of two sums
    return lost


def _energy(weight: Tensor, moments: Moments, name: str) -> Tensor:
    """E|W x|², summed over blocks."""
    if name in moments.rows:
        rows = moments.rows[name]
        return (rows @ weight.mT.to(rows.dtype)).double().square().sum() / rows.size(1)
    return ((weight @ moments.grams[name]) * weight).sum()


def _at(counts: Ints, curves: Sequence[Tensor]) -> tuple[float, ...]:
    """The sum of curves ``(n,)`` at counts of channels."""
    total = torch.stack(list(curves)).sum(0)
    return tuple(total[torch.from_numpy(counts) - 1].tolist())


def increments(weight: Tensor, gram: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """``(n,)``, the error that removing each channel adds after all later ones in the order.

    With H = L Lᵀ in that order, L_j: L_j:ᵀ is the part of the columns from j on that earlier columns do not
    explain. So the error without the last columns is the energy of W L in them: one factor gives all counts.

    Args:
        weight: ``(blocks, out, d)``.
        gram: ``(blocks, d, d)`` float64, E[x xᵀ].
        columns: ``(n, m)`` int64: for each channel, in order, its columns in every block; padded with -1.
        ridge: as a fraction of the mean diagonal of each block.
    """
    own = columns[columns >= 0]
    others = torch.ones(weight.size(2), dtype=torch.bool)
    others[own] = False
    order = torch.cat([others.nonzero().flatten(), own])
    mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    damped = gram + (ridge * mean)[:, None, None] * torch.eye(gram.size(1), dtype=gram.dtype)
    factor = torch.linalg.cholesky(damped[:, order[:, None], order])
    energy = (weight.double()[:, :, order] @ factor).square().sum((0, 1))
    lost = torch.zeros(columns.shape, dtype=torch.float64)
    lost[columns >= 0] = energy[int(others.sum()) :]
    shares: Tensor = lost.sum(1) / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return shares
