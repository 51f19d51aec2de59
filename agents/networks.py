"""The networks of an actor and its critics, what they say, and how they change."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Networks(nn.Module):
    """``count`` independent ReLU networks, evaluated together: ``(B, sizes[0])`` to ``(count, B,
    sizes[-1])``.

    Initialised as `nn.Linear` is, but from a generator that is passed in.
    """

    def __init__(self, sizes: Sequence[int], count: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = fan_in**-0.5
            for parameters, rows in ((self.weights, fan_in), (self.biases, 1)):
                values = torch.empty(count, rows, fan_out).uniform_(-bound, bound, generator=generator)
                parameters.append(nn.Parameter(values))

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs, without an activation on the last layer."""
        layers = list(zip(self.weights, self.biases, strict=True))
        outputs = inputs.expand(len(layers[0][0]), *inputs.shape)
        for i, (weight, bias) in enumerate(layers):
            outputs = torch.baddbmm(bias, outputs if i == 0 else F.relu(outputs), weight)
        return outputs


def policy(actor: Networks, observation: Tensor) -> Tensor:
    """Mu, the action ``(B, 1)`` in (0, 1) for observations ``(B, n)``."""
    return torch.sigmoid(actor(observation)[0])


def q_values(critic: Networks, observation: Tensor, action: Tensor) -> Tensor:
    """``(critics, B)``, what each critic expects of observations ``(B, n)`` and actions ``(B, 1)``."""
    values: Tensor = critic(torch.cat([observation, action], dim=1))
    return values.squeeze(2)


def policy_value(actor: Networks, critic: Networks, observation: Tensor) -> Tensor:
    """Q(s, mu(s)), ``(B,)``, the lowest of the critics' estimates."""
    return q_values(critic, observation, policy(actor, observation)).amin(dim=0)


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """``target <- (1 - tau) target + tau online``, in place."""
    for old, new in zip(target.parameters(), online.parameters(), strict=True):
        old.lerp_(new, tau)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the loss, for this optimizer's parameters alone: no gradient is computed of any other."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
