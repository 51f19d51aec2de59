"""Fine-grained pruning: chooses which single weights of a layer are kept."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from amc_env.coding import gaps
from amc_env.compressors.constraints import Pruned, constrain, weight_of
from amc_env.compressors.layers import FLOAT
from amc_env.compressors.surgery import Problem
from amc_env.cost import Ints, weights
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.moments import Moments

STEPS = 100  # counts of a layer
STEP_BITS = 5  # of a position, from the one before it; Deep Compression, table 2
DAMPING = 1e-4  # of the mean diagonal, before a Gram matrix is inverted


def largest(weight: Tensor, share: float) -> Tensor:
    """A mask of the largest weights by magnitude, at least one; ties keep the first.

    Args:
        weight: of any shape.
        share: to keep, in (0, 1].
    """
    count = max(1, round(share * weight.numel()))
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count]] = True
    return mask.view_as(weight)


def layer_densities(
    model: nn.Module, graph: Graph, density: float, keep: Mapping[str, float]
) -> dict[str, float]:
    """The fraction of each layer's weights that a common threshold keeps.

    *Source*: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3: the threshold is a quality factor times the standard deviation of a layer's weights. Here the
    factor follows from the density.

    Args:
        model: the dense network.
        graph: of it.
        density: fraction of all weights that stays, in (0, 1].
        keep: fractions of single layers, which the threshold then leaves out.

    Raises:
        ValueError: for an unknown layer, or a fraction outside (0, 1].
    """
    names = [layer.name for layer in graph.layers]
    if unknown := sorted(keep.keys() - set(names)):
        raise ValueError(f"keep names {', '.join(unknown)}; the layers are {', '.join(names)}")
    for name, share in (("density", density), *((f"keep.{name}", share) for name, share in keep.items())):
        if not isinstance(share, float | int) or not 0 < share <= 1:
            raise ValueError(f"{name} is a fraction that stays, in (0, 1], not {share}")
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in names if name not in keep}
    scores = {name: weight.abs() / weight.std().clamp_min(1e-30) for name, weight in weights.items()}
    found = dict(keep)
    if scores:
        every = torch.cat([score.flatten() for score in scores.values()])
        threshold = every.sort(descending=True).values[max(1, round(density * len(every))) - 1]
        found |= {
            name: max(float((score >= threshold).double().mean()), 1 / score.numel())
            for name, score in scores.items()
        }
    return {name: found[name] for name in names}


class FineGrained:
    """Keeps the weights of a layer whose removal would change its outputs most, in steps of a hundredth.

    *Source* of the second-order saliency: Hassibi & Stork, "Optimal Brain Surgeon", 1992: w² / (H⁻¹)_jj,
    with H the second moments of the layer's inputs; with fewer rows than inputs, w² H_jj as in "Optimal
    Brain Damage". The kept weights are refitted row by row on their mask.

    Args:
        model: the dense network.
        moments: of it; None ranks by magnitude and leaves the weights as they are.
        second_order: rank by the moments as well.
        repair: refit by the moments.
        floor: the smallest fraction of a layer that may be kept, in (0, 1].
    """

    name = "fine_grained"

    def __init__(
        self, model: nn.Module, moments: Moments | None, *, second_order: bool, repair: bool, floor: float
    ) -> None:
        self._model, self._moments, self._floor = model, moments, floor
        self._second_order, self._repair = second_order, repair
        self._orders: dict[str, Tensor] = {}

    def choices(self, layer: Layer) -> Ints:
        """Hundredths."""
        return np.arange(max(1, int(np.ceil(STEPS * self._floor - 1e-9))), STEPS + 1)

    def costs(self, layer: Layer, resource: str) -> Ints:
        """The kept weights; in bits, with `STEP_BITS` for each step and fillers unless whole."""
        total = weights(layer, layer.c_in, layer.c_out)
        left = np.array([_left(total, count) for count in range(STEPS + 1)])
        if resource == "macs":
            return left * layer.positions
        if resource == "params":
            return left
        order, found = self._order(layer).numpy(), []
        for count in left[:-1]:
            entries = count + gaps.fillers(np.sort(order[:count]), STEP_BITS)
            found.append(entries * (FLOAT + STEP_BITS))
        return np.array([*found, total * FLOAT])

    def module(self, layer: Layer, count: int) -> nn.Module:
        """The layer with a mask over its weights, also in training."""
        module = copy.deepcopy(self._model.get_submodule(layer.name))
        weight = weight_of(module)
        order = self._order(layer)[: _left(weight.numel(), count)]
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[order] = True
        mask = mask.view_as(weight)
        with torch.no_grad():
            weight.copy_(self._refitted(layer, weight, mask))
        constrain(module, {"": Pruned(mask)})
        return module

    def _order(self, layer: Layer) -> Tensor:
        """``(weights,)`` int64, from the weight that is removed last."""
        if layer.name not in self._orders:
            weight = weight_of(self._model.get_submodule(layer.name)).detach().cpu().double()
            saliency = weight.square()
            if self._second_order and _known(self._moments, layer):
                assert self._moments is not None
                blocks = saliency.reshape(layer.groups, len(weight) // layer.groups, -1)
                saliency = blocks * curvature(self._moments, layer)[:, None]
            self._orders[layer.name] = saliency.flatten().argsort(descending=True, stable=True)
        return self._orders[layer.name]

    def _refitted(self, layer: Layer, weight: Tensor, mask: Tensor) -> Tensor:
        """The kept weights in place, by least squares for each row."""
        if not self._repair or not _known(self._moments, layer):
            return torch.where(mask, weight, 0.0)
        assert self._moments is not None
        flat, found = weight.detach().flatten(1), torch.zeros_like(weight).flatten(1)
        per_block = len(flat) // layer.groups
        for row, columns in enumerate(mask.flatten(1)):
            at = columns.nonzero().flatten()
            if len(at):
                problem = Problem(layer, row // per_block, flat[row : row + 1], at)
                (solved,) = self._moments.solve([problem])
                found[row, at] = solved[0]
        return found.view_as(weight)


def curvature(moments: Moments, layer: Layer) -> Tensor:
    """``(groups, d)`` float64: an output's error, divided by the square of a weight's change.

    If the Gram matrix is known, all other weights may compensate; otherwise none.
    """
    if layer.name in moments.rows:
        return moments.rows[layer.name].double().square().mean(1)
    grams = moments.grams[layer.name]
    mean = grams.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).clamp_min(1e-30)
    damped = grams + torch.diag_embed((DAMPING * mean).expand(-1, grams.size(1)))
    return 1 / torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal(dim1=1, dim2=2)


def _known(moments: Moments | None, layer: Layer) -> bool:
    return moments is not None and layer.name in moments.counts and layer.kind != "transposed"


def _left(total: int, count: int) -> int:
    """The number of weights kept at a count of hundredths."""
    return max(1, (2 * total * count + STEPS) // (2 * STEPS))
