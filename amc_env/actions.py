"""What an action in [0, 1] asks for: two scales, each with its inverse.

*Sources*: the absolute scale is AMC's, section 3.2. The relative one is ours: with repaired layers, a policy
on the absolute scale spends the budget on the first layers, and DDPG ends below the uniform policy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

BETA = (1e-3, 8.0, "on a wider scale float32 actions do not tell all counts of 2,000 channels apart")


class Scale(Protocol):
    """Turns actions into keep ratios and back."""

    def to_keep(self, action: float, share: float) -> float:
        """The keep ratio in [0, 1] that an action asks for.

        Args:
            action: in [0, 1].
            share: in (0, 1], the largest keep ratio that all open decisions can be given.
        """

    def to_action(self, keep: float, share: float) -> float:
        """The action in [0, 1] that asks for a keep ratio, or comes nearest to it."""


@dataclass(frozen=True, slots=True)
class Absolute:
    """The action is the keep ratio."""

    def to_keep(self, action: float, share: float) -> float:
        """The action itself."""
        return action

    def to_action(self, keep: float, share: float) -> float:
        """The keep ratio itself."""
        return keep


@dataclass(frozen=True, slots=True)
class Relative:
    """The action is centred on the share of the budget that is left: keep = share exp(beta (2 a - 1)).

    So 0.5 at every step is the uniform policy, and a policy whose actions average near 0.5 spends
    the whole budget.
    """

    beta: float  # half the width, in nats

    def to_keep(self, action: float, share: float) -> float:
        """Share exp(beta (2 a - 1)), at most 1."""
        return min(1.0, share * math.exp(self.beta * (2 * action - 1)))

    def to_action(self, keep: float, share: float) -> float:
        """The inverse of `to_keep`, clipped to [0, 1]."""
        return min(1.0, max(0.0, (math.log(keep / share) / self.beta + 1) / 2))


SCALES: dict[str, Callable[[float], Scale]] = {
    "absolute": lambda beta: Absolute(),
    "relative": Relative,
}
