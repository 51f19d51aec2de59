"""One set of weights for all nested plans: what each step of its training learns.

*Source*: Yu & Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019: the
sandwich rule and inplace distillation. Widths are those of plans, nested in the order of an elimination.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from amc_env.graph.structure import Graph, Layer
from experiments.training.distillation import soft_loss
from experiments.training.recipe import RecipeError

RANDOM = 2  # plans that are drawn for each step


class Sandwich:
    """Labels for the full network; its answers for the narrowest plan and for two that are drawn.

    Each plan is the full network with zeros in the place of all weights that read a removed channel. So its
    shapes are those of every other plan, and a batch norm in training computes for each channel that stays
    what it would in the cut network. The running statistics become those of the full network.

    Args:
        model: trained; on the device.
        graph: of it.
        narrowest: ``(atoms,)`` bool, which atoms the narrowest plan keeps.
        plans: ``(n, atoms)`` bool, the plans that are drawn from.
        label_smoothing: of the full network's labels.

    Raises:
        RecipeError: for a network with statistics over its channels, which removed channels would enter.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        narrowest: NDArray[np.bool_],
        plans: NDArray[np.bool_],
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        if graph.norms:
            raise RecipeError(
                f"{graph.norms[0]} belongs to a norm over channels, whose statistics are other ones for each "
                "plan: shared tuning is for networks with batch norm"
            )
        device = next(model.parameters()).device
        self.model, self.label_smoothing = model, label_smoothing
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._layers = {f"{la.name}.weight": la for la in graph.layers if la.kind != "depthwise"}
        self._reads = torch.from_numpy(np.concatenate([la.reads for la in self._layers.values()])).to(device)
        self._narrowest, self._plans = (torch.from_numpy(each).to(device) for each in (narrowest, plans))
        self._drawn = self._plans[[0] * RANDOM]

    def draw(self, generator: torch.Generator) -> None:
        """Draw the plans of the next step."""
        chosen = torch.randint(len(self._plans), (RANDOM,), generator=generator)
        self._drawn.copy_(self._plans[chosen.to(self._plans.device)])

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses of the full network, the narrowest plan, and the drawn ones."""
        full = self.model(images).float()
        loss = F.cross_entropy(full, labels, label_smoothing=self.label_smoothing)
        told = full.detach()
        with _still(self._norms):
            for mask in (self._narrowest, *self._drawn):
                loss = loss + soft_loss(self.logits(images, mask), told, 1.0)
        return loss

    def logits(self, images: Tensor, mask: Tensor) -> Tensor:
        """``(n, classes)`` of the plan that keeps the atoms ``(atoms,)`` bool of a mask."""
        weights, reads = {}, mask[self._reads].split([la.c_in for la in self._layers.values()])
        for (name, layer), kept in zip(self._layers.items(), reads, strict=True):
            weight = self.model.get_parameter(name)
            weights[name] = weight * _columns(layer, kept, weight)
        found: Tensor = functional_call(self.model, weights, (images,))
        return found


def _columns(layer: Layer, kept: Tensor, weight: Tensor) -> Tensor:
    """A layer's inputs ``(c_in,)`` that stay, in a shape that multiplies its weights."""
    tail = (1,) * (weight.ndim - 2)
    if layer.kind == "transposed":
        return kept.view(-1, 1, *tail)
    if layer.groups == 1:
        return kept.view(1, -1, *tail)
    blocks = kept.view(layer.groups, 1, -1).expand(-1, layer.c_out // layer.groups, -1)
    return blocks.reshape(layer.c_out, -1, *tail)


@contextmanager
def _still(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms whose running statistics stay as they are, although they run in training."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
