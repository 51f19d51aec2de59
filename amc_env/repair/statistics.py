"""Repair of weights that were trained for all plans: batch norm's statistics, re-estimated for each plan."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc_env.compressors.surgery import Surgeon
from amc_env.data.splits import DataSet
from amc_env.execution import CPU
from amc_env.graph.structure import Graph
from amc_env.plan import Plan

BATCH = 500  # images whose statistics are averaged


class Restated:
    """Cut networks of shared weights, each with the batch statistics of its own calibration images.

    *Source*: Yu & Huang, "Universally Slimmable Networks", ICCV 2019, section 3.3.

    Args:
        model: whose weights serve every plan; copied, not changed.
        graph: of it.
        data: its calibration split is read.
        images: how many of it.
        device: where networks are run.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, data: DataSet, *, images: int, device: torch.device = CPU
    ) -> None:
        self.graph, self.device = graph, device
        self._surgeon = Surgeon(model, graph, fold=False, device=device)
        self._batches = [batch.to(device) for batch, _ in data.batches("calibration", BATCH, images)]

    def network(self, plan: Plan) -> nn.Module:
        """The small network; the next call refills the same module."""
        network = self._surgeon.cut(plan)
        restate(network, self._batches)
        return network


def restate(network: nn.Module, batches: list[Tensor]) -> None:
    """Give a network's batch norms the mean statistics of some batches ``(n, C, H, W)``, in place."""
    norms = [module for module in network.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
