"""Sparse positions as steps of a few bits; where a step would be too long, a filler zero is put in between.

*Source*: Han et al., "Deep Compression", ICLR 2016, section 2 and figure 2: with 3 bits a step is 1 to 8, and
a filler zero is stored after 8 zeros in a row.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def fillers(positions: Ints, bits: int) -> int:
    """The number of fillers that `to_steps` inserts."""
    return int((_distances(positions) - 1 >> bits).sum())


def to_steps(positions: Ints, bits: int) -> tuple[Ints, NDArray[np.bool_]]:
    """The steps, each minus one, and which of them lead to a position rather than to a filler.

    With 3 bits, positions (0, 9) give steps (0, 7, 0), which are 1, 8 and 1; the second leads to a filler.

    Args:
        positions: ``(n,)`` ascending, distinct, from 0 on.
        bits: of a step.
    """
    distances = _distances(positions)
    between = distances - 1 >> bits
    ends = (between + 1).cumsum() - 1
    total = len(positions) + int(between.sum())
    steps, real = np.full(total, (1 << bits) - 1), np.zeros(total, dtype=bool)
    steps[ends] = distances - 1 - (between << bits)
    real[ends] = True
    return steps, real


def to_positions(steps: Ints) -> Ints:
    """The positions that the steps lead to, those of fillers included."""
    found: Ints = (steps + 1).cumsum() - 1
    return found


def _distances(positions: Ints) -> Ints:
    found: Ints = np.diff(positions, prepend=-1)
    return found
