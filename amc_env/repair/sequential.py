"""Least-squares repair of a whole network, layer after layer, on what its smaller predecessors give it.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, section 3.2: the target is the dense layer's output,
the input that of the pruned network, so that a layer also makes up for the errors before it. `reconstruct`
takes the dense input instead, which needs no forward pass; this takes one pass of the smaller network over
the calibration images.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.data.own import OwnData, count
from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from amc_env.graph.given import nested
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.sampling import Listening, Seen, draw_positions, patches, refittable
from amc_env.repair.shortcuts import is_sum, pixels, shortcuts

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of the inputs
HELD_OUT = 4  # one row of so many is held out to choose a ridge
SMALL = 49  # positions of a map up to which all are taken
ENOUGH = 40  # rows for each tap of a depthwise kernel
WIDEST = 1.5  # the most that a channel's spread is raised by
TINY = 1e-6  # scale of a batch norm behind which a layer changes nothing
ACTIVATIONS = 2**31  # bytes that the widest layer's input and output may take
NARROW = 64  # columns whose products cost nothing in float64; a depthwise channel may hardly vary
ROWS = 1024  # that are multiplied at once, so that they stay in a processor's cache


class Sequential:
    """Repairs cut networks of one dense network.

    Args:
        dense: whole; where its batch norms are folded, so must be those of the networks that are repaired.
        graph: of it.
        data: only its calibration split is read.
        images: how many of its images; all where there are fewer, and no more than `ACTIVATIONS` hold.
        points: positions sampled in each image and layer; all of maps that have no more than `SMALL`.
        seed: draws the positions.
    """

    def __init__(
        self, dense: nn.Module, graph: Graph, data: DataSet | OwnData, *, images: int, points: int, seed: int
    ) -> None:
        device = next(dense.parameters()).device
        layout = torch.channels_last if graph.channels_last else torch.contiguous_format

        def laid(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.ndim != 4:
                return value.to(device) if isinstance(value, Tensor) else value
            return torch.empty_like(value, memory_format=layout).copy_(value).to(device)

        self.images = nested(data.joined("calibration", min(images, most_images(graph))), laid)
        number = count(self.images)
        reading = {layer.name for layer in refittable(graph)}
        self._refitted = [
            layer
            for layer in graph.layers
            if layer.calls == 1 and (layer.name in reading or _depthwise(graph, layer))
        ]
        generator = torch.Generator().manual_seed(seed)
        self.positions = {
            layer.name: draw_positions(layer, number, self._points(layer, points), generator)[0]
            for layer in self._refitted
        }
        self._norms = {layer: norm for layer, norm in graph.folds}
        self._shortcuts = [each for each in shortcuts(graph) if each.layer.name in self.positions]
        self._targets: dict[str, Tensor] = {}
        self._passing: dict[str, Tensor] = {}  # by layer whose outputs are added to it, the dense shortcut
        self._listened = [layer for layer in graph.layers if layer.name in self._heard()]
        with evaluating(dense), Listening(dense, self._listened, partial(self._remember, dense)):
            dense(self.images)

    def repair(self, network: nn.Module, mask: NDArray[np.bool_]) -> None:
        """Refit every layer of a cut network, in place and in forward order.

        A layer's bias, or the batch norm's mean behind a layer that has none, is refitted with its weights.

        Args:
            network: physically smaller, in the evaluation mode of the dense one.
            mask: ``(atoms,)`` bool, which atoms stayed.
        """
        drift: dict[str, Tensor] = {}  # what the shortcut lacks, by the layer that makes up for it

        def refit(layer: Layer, module: nn.Module, seen: Seen) -> None:
            for each in self._shortcuts:
                if each.entry is layer and each.layer.name in self._passing:
                    whole = self._passing[each.layer.name][:, torch.from_numpy(mask[layer.reads])]
                    drift[each.layer.name] = whole - pixels(seen.x, self.positions[each.layer.name])
            if layer.name not in self._targets:
                return
            norm = self._norm(network, layer)
            target = self._targets[layer.name][:, torch.from_numpy(mask[layer.writes])]
            summed = layer.name in drift
            if summed:
                target = target + _unscaled(drift.pop(layer.name), norm)
            sample = patches(module, layer, seen, self.positions[layer.name])
            _refit(module, norm, sample, target)
            if not summed:  # the shortcut's errors are noise to the branch, and cannot be met in full
                _restore_spread(module, norm, _outputs(module, sample), target)

        modes = {module: module.training for module in network.modules()}
        network.eval()
        try:
            with torch.no_grad(), Listening(network, self._listened, refit):
                network(self.images)
        finally:
            for module, training in modes.items():
                module.training = training

    def _remember(self, dense: nn.Module, layer: Layer, module: nn.Module, seen: Seen) -> None:
        """Keep what a layer of the dense network makes, and what passes by the branches that begin there."""
        for each in list(self._shortcuts):
            name = each.layer.name
            if each.entry is layer:
                self._passing[name] = pixels(seen.x, self.positions[name])
            if each.exit is layer:
                branch = _normed(self._targets[name], self._norm(dense, each.layer))
                if not is_sum(branch + self._passing[name], pixels(seen.x, self.positions[name])):
                    self._shortcuts.remove(each)
                    del self._passing[name]
        if layer.name in self.positions:
            sample = patches(module, layer, seen, self.positions[layer.name])
            self._targets[layer.name] = _outputs(module, sample)

    def _heard(self) -> set[str]:
        ends = {end.name for each in self._shortcuts for end in (each.entry, each.exit)}
        return ends | set(self.positions)

    def _norm(self, network: nn.Module, layer: Layer) -> nn.Module | None:
        """The batch norm behind a layer; None where there is none, or it is folded."""
        norm = network.get_submodule(self._norms[layer.name]) if layer.name in self._norms else None
        return norm if isinstance(getattr(norm, "running_var", None), Tensor) else None

    def _points(self, layer: Layer, points: int) -> int:
        if layer.kind == "depthwise":
            return max(1, min(points, ENOUGH * layer.taps // len(self.images)))
        places = layer.out_size[0] * layer.out_size[1]
        return places if places <= SMALL else points


def most_images(graph: Graph) -> int:
    """How many images pass through a network at once with its widest layer within `ACTIVATIONS`."""
    floats = max(
        layer.c_in * math.prod(layer.in_size) + layer.c_out * math.prod(layer.out_size)
        for layer in graph.layers
    )
    return max(1, ACTIVATIONS // (4 * floats))


def _depthwise(graph: Graph, layer: Layer) -> bool:
    """Whether a layer is depthwise and may lose channels: what is left of it reads other values then."""
    return layer.kind == "depthwise" and not graph.fixed[layer.reads].all()


def _outputs(module: nn.Module, sample: Tensor) -> Tensor:
    """``(rows, c_out)`` what a layer makes of sampled inputs ``(groups, rows, d)``."""
    weight = module.get_parameter("weight").detach().flatten(1).unflatten(0, (len(sample), -1))
    found: Tensor = torch.einsum("grd,god->rgo", sample, weight).flatten(1)
    bias: Tensor | None = getattr(module, "bias", None)
    return found if bias is None else found + bias.detach()


def _normed(outputs: Tensor, norm: Any) -> Tensor:
    """``(rows, C)`` outputs of a layer after its batch norm, if there is one."""
    if norm is None:
        return outputs
    found: Tensor = (outputs - norm.running_mean) * _scale(norm)
    return found if norm.bias is None else found + norm.bias.detach()


def _unscaled(drift: Tensor, norm: Any) -> Tensor:
    """What a layer before a batch norm has to add for ``(rows, C)`` behind it; zero where it cannot."""
    if norm is None:
        return drift
    scale = _scale(norm)
    return torch.where(scale.abs() > TINY, drift / scale, 0)


def _scale(norm: Any) -> Tensor:
    deviation: Tensor = torch.sqrt(norm.running_var + norm.eps)
    weight: Tensor = torch.ones_like(deviation) if norm.weight is None else norm.weight.detach()
    return weight / deviation


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


def _restore_spread(module: nn.Module, norm: nn.Module | None, outputs: Tensor, target: Tensor) -> None:
    """Scale each channel about its mean until it varies as much as its target does.

    The best fit to inputs that have errors varies too little, layer upon layer: on EfficientNet-Lite0 at 80 %
    of the MACs, the logits end at 0.7 of their spread.

    Args:
        module: the refitted layer.
        norm: the batch norm behind it, or None. Without it and without a bias nothing is changed.
        outputs: ``(rows, c_out)`` of the layer.
        target: likewise.
    """
    mean: Tensor | None = getattr(norm, "running_mean", None)
    bias: Tensor | None = getattr(module, "bias", None)
    if bias is None and mean is None:
        return
    scale = (target.std(0) / outputs.std(0).clamp_min(TINY)).clamp(1, WIDEST)
    weight = module.get_parameter("weight")
    weight.data = weight.detach() * scale.view(-1, *[1] * (weight.ndim - 1))
    moved = (scale - 1) * outputs.mean(0)
    if bias is not None:
        bias.data = bias.detach() * scale - moved
    elif mean is not None:
        mean += moved


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

    Products of some rows are made in the precision of x, or in float64 where columns are few, and added in
    float64.
    """
    blocks, rows, d = x.shape
    if d <= NARROW:
        x, missing = x.double(), missing.double()
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
