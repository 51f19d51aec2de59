"""A codebook for a layer: few values that all of its weights share.

*Source*: Han et al., "Deep Compression", ICLR 2016, section 3: k-means over the weights of one layer, started
from values that are equally spaced ("linear"), equally spaced in the distribution function ("density"), or
drawn from the weights ("random"). The paper finds linear best, since it serves the few large weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from amc_env import checks

STARTS = ("linear", "density", "random")
MOST = 256  # values of a codebook
ROUNDS = 100  # of k-means at most


def codebook(weights: Tensor, count: int, *, start: str = "linear", seed: int = 0) -> tuple[Tensor, Tensor]:
    """The shared values of weights, and the code of each weight.

    Args:
        weights: ``(n,)`` of one layer, without pruned ones.
        count: largest number of values, 1 to 256.
        start: one of `STARTS`.
        seed: draws the random start.

    Returns:
        ``(k,)`` values in the dtype of the weights, ascending, and ``(n,)`` int64 codes.
    """
    checks.one_of("start", start, STARTS)
    if not 1 <= count <= MOST:
        raise ValueError(f"a codebook has 1 to {MOST} values, not {count}")
    values, codes = weights.unique(return_inverse=True)
    if len(values) <= count:
        return values, codes
    numbers = weights.double().numpy()[:, None]
    begin = _start(numbers[:, 0], count, start, seed)[:, None]
    found = KMeans(len(begin), init=begin, n_init=1, max_iter=ROUNDS).fit(numbers)
    order = np.argsort(found.cluster_centers_[:, 0], kind="stable")
    centers = torch.from_numpy(found.cluster_centers_[order, 0]).to(weights.dtype)
    return centers, torch.from_numpy(np.argsort(order)[found.labels_])


def _start(numbers: NDArray[np.float64], count: int, start: str, seed: int) -> NDArray[np.float64]:
    """``(count,)`` initial values of k-means."""
    if start == "linear":
        return np.linspace(numbers.min(), numbers.max(), count)
    if start == "density":
        return np.unique(np.quantile(numbers, (np.arange(count) + 0.5) / count))
    return np.random.default_rng(seed).choice(np.unique(numbers), count, replace=False)
