"""Predicts the error of each layer when inputs are removed, without a forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amc_env.compressors import Errors
from amc_env.cost import Ints
from amc_env.graph.structure import Graph
from amc_env.repair.elimination import INVERTED, reading, without
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
        curves = []
        for name, weight, unordered in reading(model, graph, group):
            columns = unordered[torch.from_numpy(order)]
            if weight.size(2) > INVERTED:
                lost = without(weight, moments, name, columns)
            else:
                lost = increments(weight, moments.gram(name), columns, moments.damping(name, weight.size(2)))
            curves.append((lost.sum() - lost.cumsum(0)).clamp(0, 1))
        total = torch.stack(curves).sum(0)
        found.append(tuple(total[torch.from_numpy(counts) - 1].tolist()))
    return found


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
