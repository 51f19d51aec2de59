"""Fine-grained pruning: which single weights of a layer stay."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env.graph.structure import Graph


def largest(weight: Tensor, share: float) -> Tensor:
    """A mask of a share of the weights, those of the largest magnitude; at least one, the first of equals.

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
    """The fraction of each layer's weights that stays under one threshold for all.

    *Source*: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3: the threshold is a quality factor times the standard deviation of a layer's weights. Here the
    factor follows from the density.

    Args:
        model: the dense network.
        graph: of it.
        density: fraction of all weights that stays, in (0, 1].
        keep: of single layers, which then have no part in that.

    Raises:
        ValueError: for a layer that is not there, or a fraction outside of (0, 1].
    """
    names = [layer.name for layer in graph.layers]
    if unknown := sorted(keep.keys() - set(names)):
        raise ValueError(f"keep names {', '.join(unknown)}; the layers are {', '.join(names)}")
    for name, share in (("density", density), *((f"keep.{name}", share) for name, share in keep.items())):
        if not 0 < share <= 1:
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
