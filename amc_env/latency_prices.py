"""The cost of plans in nanoseconds, by the layer times of a latency table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_env.conditions import LatencyError
from amc_env.cost import Ints


@dataclass(frozen=True)
class LayerTimes:
    """Nanoseconds of one layer at the counts of the groups that it touches.

    Attributes:
        name: of the layer.
        groups: the channel groups that it reads or writes, ascending; none, one or two.
        ns: medians; a number, a list by the count of the one group, or a list of lists by both.
    """

    name: str
    groups: tuple[int, ...]
    ns: Any


class LatencyPrices:
    """Predicts the nanoseconds of plans.

    Args:
        counts: for each group, the measured counts.
        layers: the times of each layer.
        rest_ns: time of a pass outside all layers; negative if their times include the overhead of the clock.
        block: channels that the processor handles at once.
        factor: multiplies the layers' times.
    """

    unit, pairwise = "nanoseconds", True

    def __init__(
        self,
        counts: Sequence[Sequence[int]],
        layers: Sequence[LayerTimes],
        rest_ns: int,
        block: int,
        factor: float,
    ) -> None:
        most = max(map(len, counts))
        single = np.zeros((len(counts), most + 1))
        pairs: dict[tuple[int, int], NDArray[np.float64]] = {}
        constant = 0.0
        for layer in layers:
            ns = np.array(layer.ns, dtype=float)
            match layer.groups:
                case (one, other):
                    table = pairs.setdefault((one, other), np.zeros((most + 1, most + 1)))
                    table[: ns.shape[0], : ns.shape[1]] += ns
                case (one,):
                    single[one, : len(ns)] += ns
                case _:
                    constant += float(ns)
        self.pairs = tuple(sorted(pairs))
        self._constant = round(factor * constant) + rest_ns
        self._single = factor * single
        self._pairs = factor * np.array([pairs[pair] for pair in self.pairs]).reshape(-1, most + 1, most + 1)
        self._ends = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        self._first = np.array([each[0] for each in counts])
        sizes = [each[-1] + 1 for each in counts]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._positions = np.concatenate([_positions(each, block) for each in counts])

    def __call__(self, counts: Sequence[int] | Ints) -> Ints:
        """``(...)`` nanoseconds of plans ``(..., groups)``."""
        at = self._positions[self._starts + np.asarray(counts)]
        low = at.astype(np.int64)
        part = at - low
        each = np.arange(len(self._single))
        alone = (1 - part) * self._single[each, low] + part * self._single[each, low + 1]
        a, b = low[..., self._ends[:, 0]], low[..., self._ends[:, 1]]
        x, y = part[..., self._ends[:, 0]], part[..., self._ends[:, 1]]
        each = np.arange(len(self._pairs))
        joint = (1 - x) * ((1 - y) * self._pairs[each, a, b] + y * self._pairs[each, a, b + 1]) + x * (
            (1 - y) * self._pairs[each, a + 1, b] + y * self._pairs[each, a + 1, b + 1]
        )
        total: Ints = np.rint(alone).astype(np.int64).sum(-1) + np.rint(joint).astype(np.int64).sum(-1)
        return total + self._constant

    def column(self, counts: Sequence[int] | Ints, group: int, choices: Ints) -> Ints:
        """``(choices,)`` nanoseconds of the plan ``(groups,)`` with one group's count replaced by each."""
        plans = np.tile(np.asarray(counts), (len(choices), 1))
        plans[:, group] = choices
        return self(plans)

    def check(self, choices: Sequence[Ints]) -> None:
        """Raise a `LatencyError` where a group may keep fewer than were measured."""
        for group, (own, first) in enumerate(zip(choices, self._first, strict=True)):
            if own[0] < first:
                raise LatencyError(
                    f"the latency table begins at {first} of {own[-1]} channels of group {group}, the floor "
                    f"allows {own[0]}: raise compressor.floor, or measure a table with a lower floor"
                )


def _positions(counts: Sequence[int], block: int) -> NDArray[np.float64]:
    """``(largest + 1,)`` position of each count among the measured ones: 1.5 is halfway from second to third.

    >>> _positions([8, 24, 64], 16)[[8, 9, 24, 25, 40, 64]].tolist()
    [0.0, 0.5, 1.0, 1.2, 1.4, 2.0]
    """
    every = np.arange(counts[-1] + 1)
    after = np.array(counts)[np.searchsorted(counts, every)]
    blocks = np.minimum(-(-every // block) * block, after)
    rounded = np.where(np.isin(every, counts), every, blocks)
    return np.interp(rounded, counts, np.arange(len(counts)))
