"""Bayesian optimisation with the model and the acquisition that BoTorch has as its defaults."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agents.lattice import Floats, Lattice, Plans
from agents.surrogate import GP, standardised


class BoTorch(GP):
    """`GP` with BoTorch's process: a length scale for each decision, fitted mean and noise.

    Plans are ranked by the logarithm of their expected improvement. A proposal takes about a second, `GP`
    takes a fiftieth of one.

    Source: Balandat et al., "BoTorch: A Framework for Efficient Monte-Carlo Bayesian Optimization", NeurIPS
    2020; Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024, for
    the kernel and its priors; Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian
    Optimization", NeurIPS 2023.

    Args:
        starts, candidates, most: see `GP`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._botorch, self._likelihood = imported()
        super().__init__(*args, **kwargs)

    def promise(self, lattice: Lattice) -> Callable[[Plans], Floats]:
        """The logarithm of the expected improvement, after a fit to the played plans."""
        rows = self.fitted_rows()
        values = standardised(self.rewards[rows])
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(int(self.rng.integers(2**31)))  # a fit that fails begins anew at random
            warnings.simplefilter("ignore")
            model = self.fitted(in_unit_cube(lattice, self.plans[rows]), torch.from_numpy(values[:, None]))
        acquisition = self._botorch.acquisition.LogExpectedImprovement(model, best_f=values.max())

        def promise(plans: Plans) -> Floats:
            with torch.no_grad():
                improvement: Floats = acquisition(in_unit_cube(lattice, plans)[:, None]).numpy()
            return improvement

        return promise

    def fitted(self, points: torch.Tensor, values: torch.Tensor) -> Any:
        """BoTorch's model of standardised values ``(n, 1)`` at points ``(n, T)``, fitted."""
        model = self._botorch.models.SingleTaskGP(points, values, outcome_transform=None)
        self._botorch.fit.fit_gpytorch_mll(self._likelihood(model.likelihood, model))
        return model


def imported() -> tuple[Any, Any]:
    """The package, and the marginal likelihood that its models are fitted by; both are untyped.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gpytorch uses what torch has deprecated
            import botorch  # here, because it takes seconds that other agents need not wait for
            from gpytorch.mlls import ExactMarginalLogLikelihood
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "BoTorch needs the package botorch: pip install 'amc-rl[botorch]'"
        ) from error
    return botorch, ExactMarginalLogLikelihood


def in_unit_cube(lattice: Lattice, plans: Plans) -> torch.Tensor:
    """``(n, T)`` float64: for each decision, its keep ratio from the smallest one (0) to 1."""
    low = np.array([keeps[0] for keeps in lattice.keeps])
    return torch.from_numpy((lattice.ratios(plans) - low) / np.maximum(1 - low, 1e-12))
