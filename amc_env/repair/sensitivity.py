"""Predicts the error of each layer, and the rise of the loss, when inputs are removed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amc_env.compressors import Errors
from amc_env.cost import Ints
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet, digest
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.cache import cached
from amc_env.repair.elimination import is_wide, reading, without
from amc_env.repair.information import Information
from amc_env.repair.moments import Moments

FORMAT = 2  # of cache files

Curves = Sequence[Tensor]  # for each group ``(n,)`` float64, with the first 1 to n of its positions


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
    found, _ = curves(model, graph, moments, {}, orders)
    return at_counts(found, choices)


def curves(
    model: nn.Module, graph: Graph, moments: Moments, known: Information, orders: Sequence[Ints]
) -> tuple[Curves, Curves | None]:
    """The errors of each group, see `errors`, and the rises of the loss in nats that they predict.

    A rise is half of E[eᵀ F e], summed over layers, with e the errors of a layer's outputs and F their Fisher
    information. It holds for small errors, and leaves out that later layers are repaired as well.

    Args:
        model: the dense network.
        graph: of it.
        moments: of it, on the processor.
        known: information of the layers' outputs.
        orders: for each group its positions, the most important first.

    Returns:
        Errors and rises; None for the rises unless the information of all layers that read groups is known.
    """
    relative, rises, complete = [], [], True
    layers = {layer.name: layer for layer in graph.layers}
    for group, order in zip(graph.groups, orders, strict=True):
        lost = torch.zeros(2, len(group), dtype=torch.float64)
        for name, weight, columns in reading(model, graph, group):
            columns = columns[torch.from_numpy(order)]
            if name not in known:
                complete = False
                lost[0] += _lost([weight], moments, name, columns)[0]
                continue
            scaled = _scaled(weight, known[name])
            error, rise = _lost([weight, scaled], moments, name, columns)
            rise *= _energy(scaled, moments, name) / 2 * _rows_an_output(layers[name])
            lost += torch.stack([error, rise])
        relative.append(lost[0])
        rises.append(lost[1])
    return relative, rises if complete else None


def _rows_an_output(layer: Layer) -> float:
    """Rows of the moments for each output, over which the information is a sum.

    One, but for transposed layers: their rows lie at input positions, and hold all outputs of their taps.
    """
    height, width = layer.out_size
    return layer.positions / (height * width * layer.calls)


def curves_cached(
    model: nn.Module,
    graph: Graph,
    data: DataSet | OwnData,
    moments: Moments,
    inform: Callable[[], Information] | None,
    orders: Sequence[Ints],
    *,
    images: int,
    points: int,
    seed: int,
) -> tuple[Curves, Curves | None]:
    """`curves`, cached on disk beside the moments of that sampling.

    ``inform`` makes the information where there is no file yet; None where the loss does not count.
    """

    def make() -> dict[str, Tensor]:
        relative, rises = curves(model, graph, moments, inform() if inform else {}, orders)
        stored = {f"error/{group}": curve for group, curve in enumerate(relative)}
        return stored | {f"rise/{group}": curve for group, curve in enumerate(rises or ())}

    of = digest([torch.from_numpy(order) for order in orders])[:8]
    kind = f"curves-{FORMAT}-{of}" + ("-informed" if inform else "")
    stored = cached(kind, make, model, graph, data, images=images, points=points, seed=seed)
    groups = range(len(graph.groups))
    rises = [stored[f"rise/{group}"] for group in groups] if "rise/0" in stored else None
    return [stored[f"error/{group}"] for group in groups], rises


def at_counts(found: Curves, choices: Sequence[Ints]) -> Errors:
    """The values of curves at counts, ascending, of each group."""
    return [
        tuple(curve[torch.from_numpy(counts) - 1].tolist())
        for curve, counts in zip(found, choices, strict=True)
    ]


def _scaled(weight: Tensor, known: Tensor) -> Tensor:
    """Rᵀ W of each block ``(blocks, out, d)``, where R Rᵀ is the information of the block's outputs.

    A block of a transposed convolution has several outputs a channel, whose information is equal.
    """
    blocks, channels = len(weight), len(known) // len(weight)
    own = known.double().view(blocks, channels, blocks, channels).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    values, vectors = torch.linalg.eigh(own)
    root = (vectors * values.clamp_min(0).sqrt()[:, None]).to(weight.dtype)  # rounding may make one negative
    parts = weight.unflatten(1, (channels, -1))  # (blocks, channels, outputs of each, d)
    return torch.einsum("bij,biod->bjod", root, parts).flatten(1, 2)


def _lost(weights: Sequence[Tensor], moments: Moments, name: str, columns: Tensor) -> list[Tensor]:
    """``(n,)`` for each weight: the error with the first 1 to n channels, as a fraction of E|W x|²."""
    if is_wide(weights[0]):
        added = [without(weight, moments, name, columns) for weight in weights]
    else:
        added = increments(weights, moments.gram(name), columns, moments.damping(name, weights[0].size(2)))
    found = [(each.sum() - each.cumsum(0)).clamp(0, 1) for each in added]
    for each in found:
        each[-1] = 0  # not the rounding error of two sums
    return found


def _energy(weight: Tensor, moments: Moments, name: str) -> Tensor:
    """E|W x|², summed over blocks."""
    if name in moments.rows:
        rows = moments.rows[name]
        return (rows @ weight.mT.to(rows.dtype)).double().square().sum() / rows.size(1)
    wide = weight.double()
    return ((wide @ moments.grams[name]) * wide).sum()


def increments(weights: Sequence[Tensor], gram: Tensor, columns: Tensor, ridge: float) -> list[Tensor]:
    """``(n,)`` for each weight: the error that removing each channel adds after all later ones in the order.

    With H = L Lᵀ in that order, L_j: L_j:ᵀ is the part of the columns from j on that earlier columns do not
    explain. So the error without the last columns is the energy of W L in them: one factor gives all counts.

    Args:
        weights: each ``(blocks, out, d)``.
        gram: ``(blocks, d, d)`` float64, E[x xᵀ].
        columns: ``(n, m)`` int64: for each channel, in order, its columns in every block; padded with -1.
        ridge: as a fraction of the mean diagonal of each block.
    """
    own = columns[columns >= 0]
    others = torch.ones(gram.size(1), dtype=torch.bool)
    others[own] = False
    order = torch.cat([others.nonzero().flatten(), own])
    mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    damped = gram + (ridge * mean)[:, None, None] * torch.eye(gram.size(1), dtype=gram.dtype)
    factor = torch.linalg.cholesky(damped[:, order[:, None], order])
    return [_by_channel(weight.double()[:, :, order] @ factor, columns, len(own)) for weight in weights]


def _by_channel(parts: Tensor, columns: Tensor, count: int) -> Tensor:
    """``(n,)``, the share of each channel, whose columns are the last ``count`` of ``(blocks, out, d)``."""
    energy = parts.square().sum((0, 1))
    lost = torch.zeros(columns.shape, dtype=torch.float64)
    lost[columns >= 0] = energy[len(energy) - count :]
    shares: Tensor = lost.sum(1) / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return shares
