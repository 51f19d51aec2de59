"""The state embedding s_t.

*Source*: AMC, section 3.1: (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a_{t-1}), all in [0, 1]. The
paper does not say how they are scaled. Here sizes are divided by their maximum over the decisions, and costs
by the cost of the dense network.
"""

import numpy as np
from numpy.typing import NDArray

from amc_env.cost import Ints
from amc_env.graph.structure import Graph

FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "previous")

Observation = NDArray[np.float32]


class Embedding:
    """Embeds each decision of a network by its layer, the first one that reads the group.

    Args:
        graph: of the dense network.
        costs: ``(layers,)`` cost of each dense layer. A decision's ``cost`` is its layer's cost, and ``rest``
            is the cost of all later layers in forward order.
    """

    def __init__(self, graph: Graph, costs: Ints) -> None:
        layers = [graph.consumer(group) for group in graph.groups]
        sizes = np.array(
            [(t, la.c_out, la.c_in, *la.in_size, la.stride, max(la.kernel)) for t, la in enumerate(layers)],
            dtype=np.float64,
        )
        at = [group.layers[0] for group in graph.groups]
        share = costs / costs.sum()
        self._static = np.column_stack([sizes / np.maximum(sizes.max(0), 1), share[at]])
        self._rest = (share[::-1].cumsum()[::-1] - share)[at]

    def __call__(self, t: int, reduced: float, previous: float) -> Observation:
        """``(11,)`` float32 in [0, 1].

        Args:
            t: the index of the decision; after the last one, the sizes of the last decision are repeated.
            reduced: fraction of the dense cost that the decisions so far have removed.
            previous: the keep ratio of the decision before, in [0, 1]; 1 at the first.
        """
        at = min(t, len(self._static) - 1)
        values = [*self._static[at], reduced, self._rest[at], previous]
        return np.clip(np.array(values, dtype=np.float32), 0, 1)
