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
from amc_env.repair.least_squares import damping
from amc_env.repair.sampling import draw_positions, listening, patches, refittable

RIDGE = 1e-4  # of the mean diagonal, towards the weights that a layer has already


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
        self.images = data.normalise(data["calibration"].head(images).images).to(device)
        self.layers = [layer for layer in refittable(graph) if layer.calls == 1]
        generator = torch.Generator().manual_seed(seed)
        self.positions = {
            layer.name: draw_positions(layer, len(self.images), points, generator)[0] for layer in self.layers
        }
        self.targets: dict[str, Tensor] = {}
        with evaluating(dense), listening(dense, self.layers, self._remember):
            dense(self.images)

    def repair(self, network: nn.Module, mask: NDArray[np.bool_]) -> None:
        """Refit every layer of a cut network, in place and in forward order.

        A layer's bias, or the batch norm's mean behind a layer that has none, is refitted with its weights.

        Args:
            network: physically smaller, in the evaluation mode of the dense one.
            mask: ``(atoms,)`` bool, which atoms stayed.
        """
        norms = {layer: network.get_submodule(norm) for layer, norm in self.graph.folds}

        def refit(layer: Layer, module: nn.Module, x: Tensor) -> None:
            writes = torch.from_numpy(mask[layer.writes])
            sample = patches(module, layer, x, self.positions[layer.name])  # (groups, rows, d)
            target = self.targets[layer.name][:, writes]
            _refit(module, norms.get(layer.name), sample, target)

        modes = {module: module.training for module in network.modules()}
        network.eval()
        try:
            with torch.no_grad(), listening(network, self.layers, refit):
                network(self.images)
        finally:
            for module, training in modes.items():
                module.training = training

    def _remember(self, layer: Layer, module: nn.Module, x: Tensor) -> None:
        sample = patches(module, layer, x, self.positions[layer.name])
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
    missing = (target - _outputs(module, sample)).double().unflatten(1, (len(sample), -1))
    mean: Tensor | None = getattr(norm, "running_mean", None)
    bias: Tensor | None = getattr(module, "bias", None)
    offset = bias is not None or mean is not None
    changes, offsets = [], []
    for block, x in enumerate(sample):
        change = correction(x.double(), missing[:, block], offset=offset)
        changes.append(change[: x.size(1)].T)
        offsets.append(change[-1])
    weight.data = weight.detach() + torch.cat(changes).to(weight.dtype).view_as(weight)
    if bias is not None:
        bias.data = bias.detach() + torch.cat(offsets).to(bias.dtype)
    elif mean is not None:
        mean -= torch.cat(offsets).to(mean.dtype)


def correction(x: Tensor, missing: Tensor, *, offset: bool) -> Tensor:
    """``min_C E‖missing - x C‖² + ridge ‖C‖²``, the ridge relative to the mean square of x.

    Args:
        x: ``(rows, d)`` float64.
        missing: ``(rows, out)`` float64, what the outputs lack.
        offset: whether a constant may be added; it is the last row of the result then.

    Returns:
        ``(d, out)``, or ``(d + 1, out)``.
    """
    rows, inputs = x.shape
    if offset:
        x = torch.cat([x, x.new_ones(rows, 1)], 1)
    ridge = (RIDGE + damping(inputs, rows)) * x.square().mean().clamp_min(torch.finfo(torch.float64).tiny)
    small = x.T @ x if inputs < rows else x @ x.T
    small.diagonal().add_(rows * ridge)
    factor = torch.linalg.cholesky(small)
    if inputs < rows:
        return torch.cholesky_solve(x.T @ missing, factor)
    return x.T @ torch.cholesky_solve(missing, factor)
