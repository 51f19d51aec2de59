"""CMA-ES in which a quadratic model of the rewards ranks most points."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from agents.blackbox import CMAES, Point, Proposals

SURE = 0.85  # Kendall's rank correlation of model and losses from which the model ranks a generation
LEAST = 3  # losses that a model is built from


class LQCMAES(CMAES):
    """`CMAES` that ranks each generation by a model of the losses, linear at first, then quadratic.

    The points that the model predicts best are evaluated, half more each time, until the model ranks the
    evaluated points as their losses do. All other points get the model's predictions.

    Source: Hansen, "A Global Surrogate Assisted CMA-ES", GECCO 2019, Algorithm 1; the model is the package's
    ``LQModel``.
    """

    def proposals(self, rng: np.random.Generator) -> Proposals:
        """The points of each generation that are evaluated, one by one."""
        options = self.options(rng)
        while True:
            strategy = self.strategy(options)
            model = self._cma.fitness_models.LQModel()
            model.settings.max_absolute_size = strategy.popsize
            while not strategy.stop():
                points = strategy.ask()
                losses = yield from self._evaluated(model, points)
                strategy.tell(points, _completed(model, points, losses))
            options["popsize"] = 2 * strategy.popsize

    def _evaluated(
        self, model: Any, points: Sequence[Point]
    ) -> Generator[Sequence[Point], Sequence[float], list[float]]:
        """Evaluate points until the model ranks them well; returns their losses, NaN if not evaluated."""
        losses = np.full(len(points), np.nan)
        wanted = int(1 + max(0.02 * len(points), LEAST / model.settings.truncation_ratio - model.size))
        while np.isnan(losses).any():
            guesses = [model.eval(point) if model.size > 1 else 0.0 for point in points]
            unknown = [int(index) for index in np.argsort(guesses, kind="stable") if np.isnan(losses[index])]
            for index in unknown[: wanted - (len(points) - len(unknown))]:
                (reward,) = yield [self.played(points[index])]
                losses[index] = -reward
                model.add_data_row(points[index], -reward)
            done = int((~np.isnan(losses)).sum())
            model.sort(done)
            agreement = model.kendall(int(max(15, min(1.2 * done, 0.75 * len(points)))))
            if agreement >= SURE:
                break
            wanted += -(-wanted // 2)
        model.adapt_max_relative_size(agreement)
        return list(losses.tolist())


def _completed(model: Any, points: Sequence[Point], losses: Sequence[float]) -> list[float]:
    """The losses if all are known, else the model's predictions, shifted to the same minimum."""
    if not np.isnan(losses).any():
        return list(losses)
    values = np.array([model.eval(point) for point in points])
    return list((values - values.min() + np.nanmin(losses)).tolist())
