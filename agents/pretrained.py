"""A searcher with critics that were trained on other networks, corrected by a Gaussian process."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agents.critic import CriticError, Ensemble, read
from agents.episode import Array, Info
from agents.lattice import Lattice, Plans
from agents.surrogate import ELITES, GP, Floats, Process, expected_improvement, standardised, thinned

SHIPPED = Path(__file__).parent / "weights/critic.safetensors"
TRUSTED = 5  # plans that the critic alone proposes before a slope of the rewards over it is fitted
ROUNDS = 20  # of a search for the plan that the critic likes best


class Pretrained(GP):
    """Starts with the plans that pretrained critics rate best; then uses the critics as prior mean of `GP`.

    The first plan needs no evaluation: it has the least predicted damage, with disagreement between the
    critics counted as damage. The slope of the rewards over the predictions converts damage to points.

    Args:
        critic: path of critics that `experiments.pretrain_agent` wrote; None for the shipped ones.

    Raises:
        CriticError: for a file that is no critic of this version.
    """

    def __init__(self, *args: Any, critic: str | None = None, **kwargs: Any) -> None:
        file = Path(critic) if critic else SHIPPED
        self.critic: Ensemble = read(file)
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self._errors: Any = None
        super().__init__(*args, **kwargs)

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | {"critic": self.digest}

    def act(self, observation: Array, info: Info, *, explore: bool) -> Array:
        """Like `GP`; reads the errors of each choice from the info of ``reset``.

        Raises:
            CriticError: if the environment has none.
        """
        if "decisions" in info:
            if "errors" not in info:
                raise CriticError(
                    "the info of reset holds no errors of the choices, which the critic reads; they are "
                    "there with compressor.method=channels and repair=moments or sequential"
                )
            self._errors = info["errors"]
        return super().act(observation, info, explore=explore)

    def propose(self, lattice: Lattice) -> Plans:
        """The new plan that the critics rate best; later the one with the best expected improvement."""
        if len(self.plans) < TRUSTED:
            return self.liked(lattice)
        return self.climbed(lattice, self.promise(lattice))

    def liked(self, lattice: Lattice) -> Plans:
        """``(1, T)``, the new plan with the least doubted damage, near the best plan."""
        pool = np.concatenate([lattice.filled(lattice.uniform(), self.rng), lattice.random(400, self.rng)])
        for _ in range(ROUNDS):
            order = np.argsort(self._doubted(lattice, pool), kind="stable")[: 2 * ELITES]
            around = [lattice.neighbours(plan, self.rng) for plan in pool[order[:ELITES]]]
            mutants = lattice.exchanged(np.repeat(pool[order], 5, axis=0), self.rng)
            pool = np.unique(np.concatenate([pool[order], mutants, *around]), axis=0)
        fresh = self.new(pool[np.argsort(self._doubted(lattice, pool), kind="stable")])
        return fresh[:1] if len(fresh) else self.best

    def promise(self, lattice: Lattice) -> Callable[[Plans], Floats]:
        """Expected improvement, with the critics' prediction as prior mean."""
        rows = thinned(self.rewards, self.most)
        played, values = self.plans[rows], standardised(self.rewards[rows])
        damage = self._damage(lattice, played)
        worst = float(np.quantile(damage, 0.9))  # beyond, all plans are bad alike
        slope, level = trend(np.minimum(damage, worst), values)

        def prior(plans: Plans) -> Floats:
            return level + slope * np.minimum(self._damage(lattice, plans), worst)

        fit = Process.fitted(lattice.ratios(played), values - prior(played))

        def improvement(plans: Plans) -> Floats:
            mean, deviation = fit.predict(lattice.ratios(plans))
            return expected_improvement(mean + prior(plans), deviation, float(values.max()))

        return improvement

    def _damage(self, lattice: Lattice, plans: Plans) -> Floats:
        return self.critic.damage(lattice, self._errors, plans, lattice.uniform())

    def _doubted(self, lattice: Lattice, plans: Plans) -> Floats:
        return self.critic.doubted(lattice, self._errors, plans, lattice.uniform())


def trend(damage: Floats, values: Floats) -> tuple[float, float]:
    """Slope, at most 0, and intercept of the least-squares line of values over damage."""
    apart = damage - damage.mean()
    slope = min(0.0, float(apart @ values) / max(float(apart @ apart), 1e-12))
    return slope, float(values.mean() - slope * damage.mean())
