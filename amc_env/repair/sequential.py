"""Least-squares repair of a whole network, layer after layer, on what its smaller predecessors give it.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, section 3.2: the target is the dense layer's output,
the input that of the pruned network, so that a layer also makes up for the errors before it. `reconstruct`
takes the dense input instead, which needs no forward pass; this takes one pass of the smaller network over
the calibration images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.sampling import Listening, Seen, draw_positions, patches, refittable

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of the inputs
HELD_OUT = 4  # one row of so many is held out to choose a ridge
ROWS = 1024  # that are multiplied at once, so that they stay in a processor's cache


class Sequential:
    """Repairs cut networks of one dense network.

    Args:
        dense: whole; where its batch norms are folded, so must be those of the networks that are repaired.
        graph: of it.
        data: only its calibration split is read.
        images: how many of its images; all where there are fewer.
        points: positions sampled in each image and layer.
        seed: draws the positions.
    """

    def __init__(
        self, dense: nn.Module, graph: Graph, data: DataSet, *, images: int, points: int, seed: int
    ) -> None:
        self.graph = graph
        device = next(dense.parameters()).device
        chosen = data.normalise(data["calibration"].head(images).images)
        layout = torch.channels_last if graph.channels_last else torch.contiguous_format
        self.images = torch.empty_like(chosen, memory_format=layout).copy_(chosen).to(device)
        self.layers = [layer for layer in refittable(graph) if layer.calls == 1]
        generator = torch.Generator().manual_seed(seed)
        self.positions = {
            layer.name: draw_positions(layer, len(self.images), points, generator)[0] for layer in self.layers
        }
        self.targets: dict[str, Tensor] = {}
        with evaluating(dense), Listening(dense, self.layers, self._remember):
            dense(self.images)

    def repair(self, network: nn.Module, mask: NDArray[np.bool_]) -> None:
        """Refit every layer of a cut network, in place and in forward order.

        A layer's bias, or the batch norm's mean behind a layer that has none, is refitted with its weights.

        Args:
            network: physically smaller, in the evaluation mode of the dense one.
            mask: ``(atoms,)`` bool, which atoms stayed.
        """
        norms = {layer: network.get_submodule(norm) for layer, norm in self.graph.folds}

        def refit(layer: Layer, module: nn.Module, seen: Seen) -> None:
            writes = torch.from_numpy(mask[layer.writes])
            sample = patches(module, layer, seen, self.positions[layer.name])  # (groups, rows, d)
            target = self.targets[layer.name][:, writes]
            _refit(module, norms.get(layer.name), sample, target)

        modes = {module: module.training for module in network.modules()}
        network.eval()
        try:
            with torch.no_grad(), Listening(network, self.layers, refit):
                network(self.images)
        finally:
            for module, training in modes.items():
                module.training = training

    def _remember(self, layer: Layer, module: nn.Module, seen: Seen) -> None:
        sample = patches(module, layer, seen, self.positions[layer.name])
        self.targets[layer.name] = _outputs(module, sample)


def _outputs(module: nn.Module, sample: Tensor) -> Tensor:
    """``(rows, c_out)`` what a layer makes of sampled inputs ``(groups, rows, d)``."""
    weight = module.get_parameter("weight").detach().flatten(1).unflatten(0, (len(sample), -1))
    found: Tensor = torch.einsum("grd,god->rgo", sample, weight).flatten(1)
    bias: Tensor | None = getattr(module, "bias", None)
    return found if bias is None else found + bias.detach()


def _refit(module: nn.Module, norm: nn.Module | None, sample: Tensor, target: Tensor) -> None:
    """Change a layer's weights, and its bias or its norm's mean, so that its outputs come near a target."""
    weight = module.get_parameter("weight")
    missing = (target - _outputs(module, sample)).unflatten(1, (len(sample), -1)).transpose(0, 1)
    mean: Tensor | None = getattr(norm, "running_mean", None)
    bias: Tensor | None = getattr(module, "bias", None)
    change = correction(sample, missing, offset=bias is not None or mean is not None)
    weights = change[:, : sample.size(2)].mT
    weight.data = weight.detach() + weights.to(weight.dtype).reshape(weight.shape)
    if bias is not None:
        bias.data = bias.detach() + change[:, -1].flatten().to(bias.dtype)
    elif mean is not None:
        mean -= change[:, -1].flatten().to(mean.dtype)


def correction(x: Tensor, missing: Tensor, *, offset: bool) -> Tensor:
    """Weights C that lower E‖missing - x C‖²; zero unless they lower it on rows that they were not fitted to.

    A ridge ‖C‖² holds C near zero, that is, the layer near the weights that it has. Of `RIDGES`, times the
    mean square of x, the one is taken that fits the last quarter of the rows best when fitted to the others;
    then C is fitted to all rows.

    Args:
        x: ``(blocks, rows, d)``, float32 or float64.
        missing: ``(blocks, rows, out)``, what the outputs lack.
        offset: whether a constant may be added; it is the last row of the result then, and has no ridge.

    Returns:
        ``(blocks, d, out)``, or ``(blocks, d + 1, out)``, float64.
    """
    rows = x.size(1)
    fitted = rows - rows // HELD_OUT
    if x.size(2) > rows:
        return _from_rows(x.double(), missing.double(), fitted, offset=offset)
    some, rest = (
        _products(x[:, part], missing[:, part], offset=offset)
        for part in (slice(fitted), slice(fitted, rows))
    )
    scale = some[0].diagonal(dim1=1, dim2=2)[:, : x.size(2)].mean(1) / fitted
    scale = scale.clamp_min(torch.finfo(torch.float64).tiny)

    def solve(gram: Tensor, cross: Tensor, count: int, ridge: float) -> Tensor:
        damped = gram.clone()
        damped.diagonal(dim1=1, dim2=2)[:, : x.size(2)].add_((count * ridge * scale)[:, None])
        return torch.cholesky_solve(cross, torch.linalg.cholesky(damped))

    def gain(ridge: float) -> float:
        """By how much the sum of squares of the other rows falls."""
        found = solve(*some, fitted, ridge)
        return (found * (2 * rest[1] - rest[0] @ found)).sum().item()

    gains = {ridge: gain(ridge) for ridge in RIDGES}
    best = max(gains, key=lambda ridge: gains[ridge])
    if not gains[best] > 0:
        return torch.zeros_like(some[1])
    return solve(some[0] + rest[0], some[1] + rest[1], rows, best)


def _products(x: Tensor, missing: Tensor, *, offset: bool) -> tuple[Tensor, Tensor]:
    """``(blocks, d, d)`` xᵀ x and ``(blocks, d, out)`` xᵀ missing in float64, a column of ones added to x.

    Products of some rows are made in the precision of x, and added in float64.
    """
    blocks, rows, d = x.shape
    size, out = d + offset, missing.size(2)
    gram, cross = (torch.zeros(blocks, size, n, dtype=torch.float64, device=x.device) for n in (size, out))
    step = ROWS if x.device.type == "cpu" else rows
    for part, of_part in zip(x.split(step, 1), missing.split(step, 1), strict=True):
        gram[:, :d, :d] += part.mT @ part
        cross[:, :d] += part.mT @ of_part
        if offset:
            gram[:, :d, d] += part.sum(1)
            cross[:, d] += of_part.sum(1)
    if offset:
        gram[:, d, :d] = gram[:, :d, d]
        gram[:, d, d] = rows
    return gram, cross


def _from_rows(x: Tensor, missing: Tensor, fitted: int, *, offset: bool) -> Tensor:
    """`correction` where there are more inputs than rows: by solves of the size of the rows."""
    rows = x.size(1)
    if offset:
        x = torch.cat([x, x.new_ones(len(x), rows, 1)], 2)
    kernel = x @ x.mT
    scale = x.square().mean((1, 2)).clamp_min(torch.finfo(torch.float64).tiny)

    def solve(count: int, ridge: float) -> Tensor:
        damped = kernel[:, :count, :count].clone()
        damped.diagonal(dim1=1, dim2=2).add_((count * ridge * scale)[:, None])
        return torch.cholesky_solve(missing[:, :count], torch.linalg.cholesky(damped))

    def gain(ridge: float) -> float:
        made = kernel[:, fitted:, :fitted] @ solve(fitted, ridge)
        return (made * (2 * missing[:, fitted:] - made)).sum().item()

    gains = {ridge: gain(ridge) for ridge in RIDGES}
    best = max(gains, key=lambda ridge: gains[ridge])
    if not gains[best] > 0:
        return x.new_zeros(len(x), x.size(2), missing.size(2))
    return x.mT @ solve(rows, best)
