"""A Gaussian process that begins with what the errors of layers predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from agents.damage import damages, least
from agents.episode import Array, Info
from agents.lattice import Floats, Lattice, Plans, summed
from agents.surrogate import GP, Process, expected_improvement, standardised

BEYOND = 0.9  # quantile of the damage of played plans: plans beyond it are bad alike


class GPErrors(GP):
    """`GP` with the damage that the errors of layers predict as prior mean.

    The plan of least damage is played first, then the uniform one. From then on a line of the rewards over
    the damage is the prior mean, and the process models the rest. Where the environment tells no errors it
    is `GP`.

    Args:
        starts, candidates, most: see `GP`; starts are used where no errors are known.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._errors: Any = None
        self._damages: Any = None
        super().__init__(*args, **kwargs)

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """Like `GP`; reads the errors of each choice from the info of ``reset``."""
        if "decisions" in info:
            self._errors = info.get("errors")
            self._damages = None if self._errors is None else damages(info)
        return super().act(observation, info, explore=explore)

    def propose(self, lattice: Lattice) -> Plans:
        """The plan of least damage, the uniform one, then the plan with the largest expected improvement."""
        if self._errors is None or len(self.plans):
            return super().propose(lattice)
        promising = least(lattice, lambda plans: self.doubted(lattice, plans), self.rng)
        return self.new(np.concatenate([promising[:1], lattice.filled(lattice.uniform(), self.rng)]))

    def promise(self, lattice: Lattice) -> Callable[[Plans], Floats]:
        """Expected improvement, with a line over the predicted damage as prior mean."""
        if self._errors is None:
            return super().promise(lattice)
        rows = self.fitted_rows()
        played, values = self.plans[rows], standardised(self.rewards[rows])
        predicted = self.damage(lattice, played)
        worst = float(np.quantile(predicted, BEYOND))
        slope, level = trend(np.minimum(predicted, worst), values)

        def prior(plans: Plans) -> Floats:
            return level + slope * np.minimum(self.damage(lattice, plans), worst)

        fit = Process.fitted(lattice.ratios(played), values - prior(played))

        def improvement(plans: Plans) -> Floats:
            mean, deviation = fit.predict(lattice.ratios(plans))
            return expected_improvement(mean + prior(plans), deviation, float(values.max()))

        return improvement

    def damage(self, lattice: Lattice, plans: Plans) -> Floats:
        """``(n,)`` the predicted damage of plans ``(n, T)``, up to a factor."""
        return summed(self._damages, plans)

    def doubted(self, lattice: Lattice, plans: Plans) -> Floats:
        """``(n,)`` by which the first plan is chosen."""
        return self.damage(lattice, plans)


def trend(damage: Floats, values: Floats) -> tuple[float, float]:
    """Slope, at most 0, and intercept of the least-squares line of values over damage."""
    apart = damage - damage.mean()
    slope = min(0.0, float(apart @ values) / max(float(apart @ apart), 1e-12))
    return slope, float(values.mean() - slope * damage.mean())
