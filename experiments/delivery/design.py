"""Chooses the plans that a latency table is measured from."""

from collections.abc import Sequence
from itertools import count

import numpy as np

from amc_env.cost import Ints


def thinned(choices: Ints, most: int) -> list[int]:
    """At most ``most`` of ascending counts, in equal ratios, including first and last."""
    if len(choices) <= most:
        return [int(each) for each in choices]
    wanted = np.geomspace(choices[0], choices[-1], most)
    near = np.abs(choices[:, None] - wanted).argmin(axis=0)
    return [int(each) for each in np.unique(choices[near])]


def design(ends: Sequence[tuple[int, ...]], counts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Plans in which every layer meets every pair of counts of the groups that it touches.

    With a prime number K of levels, plan (a, b) has level (a + slope b) mod K of a group; two groups of
    different slopes meet at all K² pairs of levels as a and b run. Groups that a layer joins get different
    slopes. With K = 2 and slopes 0 and 1 the four plans are (0, 0), (0, 1), (1, 1), (1, 0).

    Args:
        ends: for each layer, the groups that it touches.
        counts: for each group, the counts to measure.
    """
    slopes: list[int] = []
    for group in range(len(counts)):
        joined = {slopes[other] for pair in ends if group in pair for other in pair if other < group}
        slopes.append(next(slope for slope in count() if slope not in joined))
    levels = prime_from(max(max(map(len, counts)), max(slopes) + 1))
    plans = (
        tuple(own[(a + slope * b) % levels % len(own)] for own, slope in zip(counts, slopes, strict=True))
        for a in range(levels)
        for b in range(levels)
    )
    return list(dict.fromkeys(plans))


def prime_from(number: int) -> int:
    """The smallest prime that is at least a number."""
    return next(n for n in count(max(2, number)) if all(n % d for d in range(2, int(n**0.5) + 1)))


def random_plans(choices: Sequence[Ints], number: int) -> list[tuple[int, ...]]:
    """Plans of all sizes: a keep ratio in [0.2, 1], times exp(u) for each group, u in [-0.5, 0.5]."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        keeps = rng.uniform(0.2, 1) * np.exp(rng.uniform(-0.5, 0.5, len(choices)))
        found.append(
            tuple(
                int(own[np.abs(own - keep * own[-1]).argmin()])
                for own, keep in zip(choices, keeps, strict=True)
            )
        )
    return found
