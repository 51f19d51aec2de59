"""Milliseconds of a forward pass, of one network or of several timed in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH = 64  # images of the larger batch that a search times
WORK = 4 * 10**9  # MACs of a batch; a network for which that is less than 64 images is timed with fewer


@dataclass(frozen=True, slots=True)
class Latency:
    """Median, lowest and highest milliseconds of one call with a batch of images."""

    batch: int
    median_ms: float
    lowest_ms: float
    highest_ms: float
    repeats: int


def batches_of(macs: int) -> tuple[int, ...]:
    """Batch sizes to time: 1, and 64 or the largest power of two within `WORK`.

    Args:
        macs: of the dense network, for one image.
    """
    many = BATCH
    while many > 1 and many * macs > WORK:
        many //= 2
    return (1, many) if many > 1 else (1,)


def measure(
    forwards: Mapping[str, Callable[[Tensor], object]],
    shape: tuple[int, int, int],
    *,
    batches: Sequence[int] = (1, BATCH),
    repeats: int = 30,
    warmup: int = 3,
) -> dict[str, list[Latency]]:
    """Time several networks in turn, A B C A B C ..., so that a drift of the machine affects all alike.

    Args:
        forwards: by name; each is called with images ``(N, C, H, W)`` float32.
        shape: C, H, W of an image; its content is random, from a fixed generator.
        batches: batch sizes.
        repeats: timed rounds.
        warmup: rounds before them.
    """
    found: dict[str, list[Latency]] = {name: [] for name in forwards}
    for batch in batches:
        images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        taken: dict[str, list[float]] = {name: [] for name in forwards}
        for round_ in range(warmup + repeats):
            for name, forward in forwards.items():
                start = time.perf_counter()
                forward(images)
                if round_ >= warmup:
                    taken[name].append(1e3 * (time.perf_counter() - start))
        for name, times in taken.items():
            found[name].append(Latency(batch, statistics.median(times), min(times), max(times), repeats))
    return found
