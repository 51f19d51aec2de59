"""AMC's exploration noise: a normal around mu, truncated to [0, 1], that decays after a warm-up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri


def truncated_normal(mu: NDArray[np.floating], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A draw from TN(mu, sigma^2, 0, 1) for each mu in [0, 1], by the inverse of its distribution function.

    It is not clipped, so no mass lies on 0 and 1 themselves. With sigma 0 it is mu.
    """
    mean = np.asarray(mu, np.float64)
    if sigma == 0:
        return mean.astype(np.float32)
    low, high = ndtr((0 - mean) / sigma), ndtr((1 - mean) / sigma)
    sample: NDArray[np.float64] = mean + sigma * ndtri(low + (high - low) * rng.random(mean.shape))
    return np.clip(sample, 0, 1).astype(np.float32)  # against the last bit of rounding only


@dataclass(frozen=True)
class SigmaSchedule:
    """Sigma of an episode: ``initial`` up to that of index ``warmup``, then multiplied by ``decay`` each."""

    initial: float
    warmup: int
    decay: float

    def __call__(self, episode: int) -> float:
        """Sigma of the episode with that index, from 0."""
        return float(self.initial * self.decay ** max(0, episode - self.warmup))
