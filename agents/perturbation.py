"""Exploration by an actor whose parameters are perturbed, the same one for a whole episode.

Source: Plappert et al., "Parameter Space Noise for Exploration", ICLR 2018, section 3: the deviation of the
parameters is not set, but follows the deviation that it brings about in the actions. Their networks have
layer normalisation, so that one deviation fits all layers; here it is in units of what each layer was
initialised with. They compare actions at observations in memory; here it is at those of the episode, so that
nothing depends on what was learnt of others meanwhile.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from agents.networks import Networks

SPREAD = 1.0  # deviation of the parameters at first, in units of 1 / sqrt(fan in)
RATE = 1.1  # by which it changes after an episode
UNIFORM = 12**-0.5  # deviation of uniform actions: no noise on [0, 1] has to bring about more


class Perturbation:
    """Perturbs actors, by as much as their actions are to differ.

    ``spread`` is the deviation of the parameters, in units of 1 / sqrt(fan in) of their layer.
    """

    def __init__(self) -> None:
        self.spread = SPREAD

    @torch.no_grad()
    def __call__(self, actor: Networks, rng: np.random.Generator) -> Networks:
        """A perturbed copy of an actor."""
        perturbed = copy.deepcopy(actor)
        for weight, bias in zip(perturbed.weights, perturbed.biases, strict=True):
            deviation = self.spread * weight.shape[1] ** -0.5
            for parameter in (weight, bias):
                noise = rng.standard_normal(tuple(parameter.shape), np.float32)
                parameter += deviation * torch.from_numpy(noise)
        return perturbed

    def follow(self, differences: NDArray[np.floating], sigma: float) -> None:
        """Let the spread grow where actions differed by less than was wanted, and shrink where by more.

        Args:
            differences: ``(T,)`` between the perturbed actor's actions and the actor's in an episode.
            sigma: root mean square that they were to have, in units of the action.
        """
        apart = float(np.sqrt(np.square(differences).mean()))
        self.spread *= RATE if apart < min(sigma, UNIFORM) else 1 / RATE
