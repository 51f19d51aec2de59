"""How much the loss rises with errors in the outputs of layers: their Fisher information.

*Source*: Theis et al., "Faster Gaze Prediction with Dense Networks and Fisher Pruning", 2018, for the loss
of a network without one of its parts; Martens & Grosse, "Optimizing Neural Networks with Kronecker-Factored
Approximate Curvature", ICML 2015, section 3.1, for gradients at outputs apart from second moments of inputs.
Positions are taken to be independent.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet
from amc_env.execution import device_in, evaluating
from amc_env.graph.given import nested, tensors
from amc_env.graph.structure import Graph
from amc_env.repair.sampling import CALLS, first_two

IMAGES = 256  # of the calibration split, at most
BATCH = 16  # of these in a pass, at most
ACTIVATIONS = 2**31  # bytes that a pass may keep for its gradients: about three values for each output

NONE = "no gradient flows back through the network, so the rise of the loss is not predicted"

Information = dict[str, Tensor]  # by layer name, (c_out, c_out) float32


class _Gradients(TorchFunctionMode):
    """While the context is open, adds up products of the gradients that flow back to the outputs of layers.

    Layers are identified by their weights, as in `amc_env.repair.sampling.Listening`.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.products: Information = {}
        self._names = {id(model.get_submodule(layer.name).weight): layer.name for layer in graph.layers}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One call."""
        found = function(*args, **(kwargs or {}))
        if function in CALLS and found.requires_grad:
            name = self._names.get(id(first_two(args, kwargs or {})[1]))
            if name is not None:
                axis = -1 if function is F.linear else 1
                found.register_hook(lambda gradient: self._add(name, gradient.movedim(axis, -1)))
        return found

    def _add(self, name: str, gradient: Tensor) -> None:
        """Add the gradients ``(..., c_out)`` of one call."""
        rows = gradient.float().flatten(0, -2)
        self.products[name] = self.products.get(name, 0) + rows.T @ rows


def information(
    model: nn.Module, graph: Graph, data: DataSet | OwnData, *, images: int, seed: int
) -> Information:
    """The Fisher information of the outputs of each layer, summed over positions and calls.

    It is E[Σ g gᵀ], with g the gradient of log p(y | x) at an output, for labels y that are drawn from the
    network's own probabilities: labels of the images are not read. Errors e of the outputs raise the loss by
    about eᵀ F e / 2 nats: one output with information 0.5 and an error of 0.2 at each position by 0.01.

    Args:
        model: the dense network; logits ``(N, classes)``.
        graph: of it.
        data: whose calibration split is read.
        images: number of its images; at most `IMAGES`.
        seed: draws the labels.

    Returns:
        ``(c_out, c_out)`` float32 by layer name. Layers that no gradient reaches are left out; it is empty
        where none flows, or one is not finite.
    """
    images = min(images, IMAGES)
    generator, device, seen = torch.Generator().manual_seed(seed), device_in(model), 0
    gradients = _Gradients(model, graph)
    for batch, _ in data.batches("calibration", _batch_size(graph), images):
        watched = nested(batch, lambda value: _leaf(value, device))
        inputs = [value for value in tensors(watched) if value.requires_grad]
        try:
            with evaluating(model), torch.enable_grad(), gradients:
                logs = F.log_softmax(model(watched).float(), dim=1)
                drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(device)
                torch.autograd.grad(logs.gather(1, drawn).sum(), inputs, allow_unused=True)
        except (RuntimeError, ValueError) as error:
            if "memory" in str(error):
                raise
            warnings.warn(f"{NONE} ({error})", stacklevel=2)
            return {}
        seen += len(drawn)
    found = {name: total.cpu() / seen for name, total in gradients.products.items()}
    return found if all(bool(each.isfinite().all()) for each in found.values()) else {}


def _batch_size(graph: Graph) -> int:
    """Images in a pass, so that the outputs of all layers fit `ACTIVATIONS`."""
    kept = sum(3 * 4 * layer.calls * layer.c_out * math.prod(layer.out_size) for layer in graph.layers)
    return max(1, min(BATCH, ACTIVATIONS // max(1, kept)))


def _leaf(value: Any, device: torch.device) -> Any:
    """A tensor's copy on a device, whose gradient is asked for if it holds floats; others as they are."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().to(device).requires_grad_(value.is_floating_point())
