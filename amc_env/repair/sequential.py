"""Repairs a whole network layer by layer, by least squares on the inputs from the smaller network.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, section 3.2: the target is the dense layer's output,
the input comes from the pruned network, so that a layer also corrects the errors before it. This takes one
forward pass of the smaller network over the calibration images; repair from moments takes none.
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
from amc_env.repair.correction import Outputs, chosen, correction, halves, made_of, of_products, of_rows
from amc_env.repair.sampling import Listening, Seen, draw_positions, patches, refittable
from amc_env.repair.shortcuts import is_sum, pixels, shortcuts

PASSED = 1000  # images that pass through each smaller network; those of the moments may be more
SMALL = 49  # positions of a map up to which as many are taken as `PLENTY` asks for
PLENTY = 16  # rows for each input of the dense layer
ENOUGH = 40  # rows for each tap of a depthwise kernel
WIDEST = 1.5  # largest factor by which the spread of a channel is raised
TINY = 1e-6  # a smaller scale of a batch norm makes the layer before it irrelevant
ACTIVATIONS = 2**31  # bytes that the widest layer's input and output may take


class SequentialRepair:
    """Repairs cut networks of one dense network.

    Args:
        dense: the dense network; if its batch norms are folded, those of repaired networks must be as well.
        graph: of it.
        data: only its calibration split is read.
        images: number of its images; at most `PASSED`, and as `ACTIVATIONS` allows.
        points: positions sampled in each image and layer; more in small maps with few rows, see `SMALL`.
        seed: draws the positions.
        unfolded: the dense network with its batch norms, which tell the outputs that they scale to nothing;
            None: ``dense`` has them.
    """

    def __init__(
        self,
        dense: nn.Module,
        graph: Graph,
        data: DataSet | OwnData,
        *,
        images: int,
        points: int,
        seed: int,
        unfolded: nn.Module | None = None,
    ) -> None:
        device = next(dense.parameters()).device
        layout = torch.channels_last if graph.channels_last else torch.contiguous_format

        def laid(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.ndim != 4:
                return value.to(device) if isinstance(value, Tensor) else value
            return torch.empty_like(value, memory_format=layout).copy_(value).to(device)

        self.images = nested(data.joined("calibration", most_images(graph, images)), laid)
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
        self._norms = dict(graph.folds)
        self._dead = _dead_outputs(unfolded or dense, graph)
        self._shortcuts = [each for each in shortcuts(graph) if each.layer.name in self.positions]
        self._targets: dict[str, Tensor] = {}
        self._passing: dict[str, Tensor] = {}  # by layer whose outputs are added to it, the dense shortcut
        self._listened = [layer for layer in graph.layers if layer.name in self._heard()]
        with evaluating(dense), Listening(dense, self._listened, partial(self._remember, dense)):
            dense(self.images)

    def repair(self, network: nn.Module, mask: NDArray[np.bool_]) -> None:
        """Refit every layer of a cut network, in place and in forward order.

        A layer's bias, or the mean of the batch norm after it, is refitted with its weights.

        Args:
            network: physically smaller, in the evaluation mode of the dense one.
            mask: ``(atoms,)`` bool, which atoms stayed.
        """
        drift: dict[str, Tensor] = {}  # error of the shortcut, by the layer that compensates for it

        def refit(layer: Layer, module: nn.Module, seen: Seen) -> None:
            for each in self._shortcuts:
                if each.entry is layer and each.layer.name in self._passing:
                    whole = self._passing[each.layer.name][:, torch.from_numpy(mask[layer.reads])]
                    drift[each.layer.name] = whole - pixels(seen.x, self.positions[each.layer.name])
            if layer.name not in self._targets:
                return
            norm = self._norm(network, layer)
            kept = torch.from_numpy(mask[layer.writes])
            target = self._targets[layer.name][:, kept]
            summed = layer.name in drift
            if summed:
                target = target + self._unscaled(drift.pop(layer.name), layer, norm, kept)
            sample = patches(module, layer, seen, self.positions[layer.name])
            if sample.size(1) < 2:  # a single row has no spread, and none is left to be held out
                return
            outputs = _refit(module, norm, sample, target)
            # Errors of the shortcut are noise to the branch, which cannot compensate for them in full.
            if outputs is not None and not summed:
                _restore_spread(module, norm, outputs, target)

        with evaluating(network), Listening(network, self._listened, refit):
            network(self.images)

    def _remember(self, dense: nn.Module, layer: Layer, module: nn.Module, seen: Seen) -> None:
        """Store a dense layer's outputs, and the shortcuts past the branches that begin there."""
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
        """The batch norm after a layer; None if there is none, or it is folded."""
        norm = network.get_submodule(self._norms[layer.name]) if layer.name in self._norms else None
        return norm if isinstance(getattr(norm, "running_var", None), Tensor) else None

    def _unscaled(self, drift: Tensor, layer: Layer, norm: nn.Module | None, kept: Tensor) -> Tensor:
        """The change before a batch norm that gives a change ``(rows, C)`` after it; zero if impossible."""
        change = drift if norm is None else drift / _scale(norm)
        if layer.name not in self._dead:
            return change
        return torch.where(self._dead[layer.name][kept].to(drift.device), 0, change)

    def _points(self, layer: Layer, points: int) -> int:
        if layer.kind == "depthwise":
            return max(1, min(points, ENOUGH * layer.taps // count(self.images)))
        places = layer.out_size[0] * layer.out_size[1]
        inputs = layer.c_in // layer.groups * layer.taps
        plenty = math.ceil(PLENTY * inputs / count(self.images))
        return min(places, max(points, plenty)) if places <= SMALL else points


def most_images(graph: Graph, images: int) -> int:
    """At most `PASSED` of so many images, and as many as keep the widest layer within `ACTIVATIONS`."""
    return min(images, PASSED, max(1, ACTIVATIONS // (4 * graph.widest)))


def calibrated(graph: Graph, data: DataSet | OwnData, images: int) -> dict[str, int]:
    """How many calibration images were asked for, give the moments, and pass through each smaller network."""
    moments = len(data["calibration"].head(images))
    return {"asked": images, "moments": moments, "passed": min(moments, most_images(graph, images))}


def _dead_outputs(model: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """By layer with a batch norm, ``(c_out,)`` bool on the CPU: which outputs that norm scales to nothing."""
    norms = {layer: model.get_submodule(norm) for layer, norm in graph.folds}
    return {
        layer: (_scale(norm).abs() <= TINY).cpu()
        for layer, norm in norms.items()
        if isinstance(getattr(norm, "running_var", None), Tensor)
    }


def _depthwise(graph: Graph, layer: Layer) -> bool:
    """Whether a layer is depthwise and may lose channels, so that its inputs change."""
    return layer.kind == "depthwise" and not graph.fixed[layer.reads].all()


def _outputs(module: nn.Module, sample: Tensor) -> Tensor:
    """``(rows, c_out)``, a layer's outputs for sampled inputs ``(groups, rows, d)``."""
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


def _scale(norm: Any) -> Tensor:
    deviation: Tensor = torch.sqrt(norm.running_var + norm.eps)
    weight: Tensor = torch.ones_like(deviation) if norm.weight is None else norm.weight.detach()
    return weight / deviation


def _refit(module: nn.Module, norm: nn.Module | None, sample: Tensor, target: Tensor) -> Outputs | None:
    """Change a layer's weights, and its bias or its norm's mean, so that its outputs approach a target.

    Errors before and outputs after the fit follow from the same products: with G = xᵀ x of the rows,
    xᵀ (y - x W) is xᵀ y - G W. So no row is multiplied by weights.

    Args:
        module: the layer.
        norm: the batch norm after it, or None.
        sample: ``(blocks, rows, d)`` its inputs.
        target: ``(rows, c_out)``.

    Returns:
        Statistics of the refitted outputs; None if neither a bias nor a norm's mean can shift them.
    """
    weight = module.get_parameter("weight")
    center: Tensor | None = getattr(norm, "running_mean", None)
    bias: Tensor | None = getattr(module, "bias", None)
    offset, inputs = bias is not None or center is not None, sample.size(2)
    start = weight.detach().flatten(1).unflatten(0, (len(sample), -1)).mT.double()  # (blocks, d, out)
    if offset:
        first = torch.zeros_like(start[:, 0]) if bias is None else bias.detach().view(len(start), -1)
        start = torch.cat([start, first[:, None]], 1)
    wanted = target.unflatten(1, (len(sample), -1)).transpose(0, 1)
    # Errors count as they do after the norm, so that a network repairs alike whether or not it is folded.
    worth = 1.0 if norm is None else _scale(norm).double().square().view(len(sample), 1, -1)
    few = inputs > sample.size(1)
    if few:
        change = correction(sample, wanted - made_of(sample, start), offset=offset, worth=worth)
    else:
        some, rest = halves(sample, wanted, offset=offset)
        for gram, cross in (some, rest):
            cross -= gram @ start
        change = chosen(some, rest, inputs, sample.size(1), worth)
    weights = change[:, :inputs].mT
    weight.data = weight.detach() + weights.to(weight.dtype).reshape(weight.shape)
    if bias is not None:
        bias.data = bias.detach() + change[:, -1].flatten().to(bias.dtype)
    elif center is not None:
        center -= change[:, -1].flatten().to(center.dtype)
        change[:, -1] = 0
    if not offset:
        return None
    now = start + change
    return of_rows(made_of(sample, now)) if few else of_products(some[0] + rest[0], now)


def _restore_spread(module: nn.Module, norm: nn.Module | None, outputs: Outputs, target: Tensor) -> None:
    """Scale each channel about its mean until it varies as much as its target does.

    The best fit to inputs with errors varies too little, and this adds up over layers: on EfficientNet-Lite0
    at 80 % of the MACs, the logits keep 0.7 of their spread.

    Args:
        module: the refitted layer, with a bias or a batch norm after it.
        norm: that batch norm, or None.
        outputs: of the layer.
        target: ``(rows, c_out)`` the outputs to approach.
    """
    center: Tensor | None = getattr(norm, "running_mean", None)
    bias: Tensor | None = getattr(module, "bias", None)
    mean, deviation = (each.to(target.dtype) for each in outputs)
    scale = (target.std(0) / deviation.clamp_min(TINY)).clamp(1, WIDEST)
    weight = module.get_parameter("weight")
    weight.data = weight.detach() * scale.view(-1, *[1] * (weight.ndim - 1))
    moved = (scale - 1) * mean
    if bias is not None:
        bias.data = bias.detach() * scale - moved
    elif center is not None:
        center += moved
