"""One-shot methods of other packages, for comparison: no search, no least squares.

Torch-Pruning removes the channels of smallest magnitude, the same fraction of every group. It has no budget,
so the fraction is found by bisection. Afterwards batch norms are re-estimated on the calibration images.
"""

import copy
import math

import torch
from torch import nn

from amc_env.cost import Macs, dense_widths
from amc_env.data.splits import DataSet
from amc_env.graph.trace import trace

METHODS = ("torch_pruning",)
HALVINGS = 12  # of the interval in which the share lies
BATCH = 25  # calibration images in a pass


class OneShotError(ValueError):
    """A method that is not installed or cannot meet the target."""


def torch_pruning(model: nn.Module, data: DataSet, target: float) -> nn.Module:
    """The largest network of Torch-Pruning within a fraction of the MACs, with unchanged batch norms.

    *Source*: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; their package, with the L2
    norm of a group's weights as its importance and all groups cut alike.

    Args:
        model: the dense network; it is copied, not changed.
        data: for the shape of the images.
        target: fraction of the MACs that may be spent, in (0, 1].

    Raises:
        OneShotError: without the package, or for a target that it cannot reach.
    """
    most = math.floor(target * total(model, data))
    low, high, found = 0.0, 1.0, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        network = _pruned(model, data, ratio)
        if total(network, data) <= most:
            high, found = ratio, network
        else:
            low = ratio
    if found is None:
        raise OneShotError(
            f"Torch-Pruning leaves no network with {100 * target:g} % of the MACs: ask for more"
        )
    return found


def total(model: nn.Module, data: DataSet) -> int:
    """The MACs of a network, counted as for plans."""
    graph = trace(model, data.shape)
    return int(Macs(graph)(dense_widths(graph)))


def re_estimate(model: nn.Module, data: DataSet, images: int) -> None:
    """Set the statistics of all batch norms, in place, to their means over some calibration images."""
    device = next(model.parameters()).device
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for batch, _ in data.batches("calibration", BATCH, images):
            model(batch.to(device))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def _pruned(model: nn.Module, data: DataSet, ratio: float) -> nn.Module:
    try:
        import torch_pruning as package  # an extra, see pyproject.toml
    except ImportError as error:
        raise OneShotError("Torch-Pruning is missing: pip install 'amc-rl[dev]'") from error
    network = copy.deepcopy(model).eval()
    images, _ = next(data.batches("calibration", 1, 1))
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    package.pruner.BasePruner(
        network, images, importance=package.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
        ignored_layers=last,
    ).step()  # fmt: skip
    return network
