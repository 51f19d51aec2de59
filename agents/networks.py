"""The networks of an actor and its critic, and their updates."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """A ReLU network, ``(B, sizes[0])`` to ``(B, sizes[-1])``, without an activation on the last layer.

    Initialised as `nn.Linear` is, but from a generator that is passed in.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = fan_in**-0.5
            for parameters, shape in ((self.weights, (fan_in, fan_out)), (self.biases, (fan_out,))):
                parameters.append(
                    nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
                )

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the last layer."""
        outputs = inputs
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            outputs = torch.addmm(bias, outputs if i == 0 else F.relu(outputs), weight)
        return outputs


def policy(actor: Network, observation: Tensor) -> Tensor:
    """Mu, the action ``(B, 1)`` in (0, 1) for observations ``(B, n)``."""
    return torch.sigmoid(actor(observation))


def q_values(critic: Network, observation: Tensor, action: Tensor) -> Tensor:
    """The critic's values ``(B,)`` of observations ``(B, n)`` and actions ``(B, 1)``."""
    values: Tensor = critic(torch.cat([observation, action], dim=1))
    return values.squeeze(1)


def policy_value(actor: Network, critic: Network, observation: Tensor) -> Tensor:
    """Q(s, mu(s)), ``(B,)``."""
    return q_values(critic, observation, policy(actor, observation))


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """``target <- (1 - tau) target + tau online``, in place."""
    for old, new in zip(target.parameters(), online.parameters(), strict=True):
        old.lerp_(new, tau)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step for this optimizer's parameters; no other gradients are computed."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
