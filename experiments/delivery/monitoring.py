"""Times probes in turn while a monitor watches the machine; disturbed turns are repeated."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil

from amc_env.conditions import LatencyError
from experiments.delivery.probes import VISIT, Pass, Probe

TOGETHER = 8  # networks that take turns
TRIES = 3
SPREAD = 0.10  # above the lower quartile, from which a pass counts as disturbed
SLOWER = (0.10, 0.40)  # likewise above the monitor's best, of processor and memory
PATIENCE, PAUSE = 600, 0.05  # how often a turn waits for a calm machine, and seconds of each wait
BUSY = 5.0  # percent of a processor; processes that use more are named

T = TypeVar("T")


class Monitor:
    """Checks by a matrix product and a copy whether processor and memory are at full speed.

    Args:
        clock: nanoseconds.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, clock: Callable[[], int] = time.perf_counter_ns, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        matrix, array = np.ones((160, 160), dtype=np.float32), np.ones(2**20, dtype=np.float32)
        self._works = (partial(np.matmul, matrix, matrix), partial(np.copyto, np.empty_like(array), array))
        self._best = [min(self._sample(work) for _ in range(100)) for work in self._works]

    def _sample(self, work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = self._clock()
            work()
            times.append(self._clock() - start)
        return statistics.median(times)

    def calm(self) -> bool:
        """Whether neither takes much longer than the best time so far."""
        now = [self._sample(work) for work in self._works]
        self._best = list(map(min, self._best, now))
        return all(
            each <= (1 + most) * best for each, most, best in zip(now, SLOWER, self._best, strict=True)
        )

    def settles(self) -> bool:
        """Whether the machine becomes calm within half a minute."""
        for _ in range(PATIENCE):
            if self.calm():
                return True
            self._sleep(PAUSE)
        return False


def interleaved(
    make: Callable[[T], Probe], jobs: Sequence[T], monitor: Monitor, *, repeats: int
) -> Iterator[tuple[T, dict[str, Any]]]:
    """Time networks in turn, a few at once, and repeat disturbed turns.

    Yields:
        A job and the times of its network: ``whole`` and each of ``layers``, median and interquartile range.

    Raises:
        LatencyError: if more than half of a network's passes were disturbed, three times.
    """
    rounds = -(-repeats // VISIT)
    for first in range(0, len(jobs), TOGETHER):
        chunk = jobs[first : first + TOGETHER]
        found: dict[T, dict[str, Any]] = {}
        for _ in range(TRIES):
            probes = {job: make(job) for job in chunk if job not in found or not steady(found[job])}
            turns = take_turns(list(probes.values()), monitor, rounds)
            for (job, probe), calm in zip(probes.items(), turns, strict=True):
                found[job] = summary(probe.passes(), calm, probe.resolution)
            if all(map(steady, found.values())):
                break
        yield from ((job, found[job]) for job in chunk if steady(found[job]))
        if left := [times for times in found.values() if not steady(times)]:
            raise LatencyError(too_busy(left))


def take_turns(probes: Sequence[Probe], monitor: Monitor, rounds: int) -> list[list[bool]]:
    """Run probes in turn, after a warm-up round; returns for each which of its turns were undisturbed.

    A turn waits until the processor is calm, and is repeated if it is not calm afterwards.
    """
    found: list[list[bool]] = [[] for _ in probes]
    for _ in range(1 + rounds):
        for probe, calm in zip(probes, found, strict=True):
            for _ in range(TRIES):
                before = monitor.settles()
                for _ in range(1 + VISIT):
                    probe.run()
                calm.append(before and monitor.calm())
                if calm[-1]:
                    break
    return found


def summary(passes: Sequence[Pass], calm: Sequence[bool], resolution: int) -> dict[str, Any]:
    """Medians and interquartile ranges of undisturbed passes.

    The first round and the first pass of each turn are warm-up. A pass is disturbed if its turn was, or if it
    takes a tenth longer than the lower quartile. ``spread`` is the relative difference between the median of
    all calm turns and that quartile.
    """
    turns = [passes[at : at + 1 + VISIT] for at in range(0, len(passes), 1 + VISIT)]
    kept = [each for turn, fine in zip(turns[1:], calm[1:], strict=True) if fine for each in turn[1:]]
    if not kept:
        return {"whole": (0, 0), "layers": [], "spread": math.inf}
    low, median = np.percentile([each.whole for each in kept], [25, 50])
    fine = [each for each in kept if each.whole <= (1 + SPREAD) * low]
    return {
        "whole": middle([each.whole for each in fine], resolution),
        "layers": [middle(times, resolution) for times in zip(*(each.layers for each in fine), strict=True)],
        "spread": float(median / low - 1),
    }


def steady(times: Mapping[str, Any]) -> bool:
    """Whether a summary can be used."""
    return bool(times["spread"] <= SPREAD)


def too_busy(left: Sequence[Mapping[str, Any]]) -> str:
    """Why the remaining times cannot be used, and what to do."""
    worst = max(times["spread"] for times in left)
    spread = (
        "no turn was undisturbed" if worst == math.inf else f"the median is {worst:.0%} above the quartile"
    )
    return (
        f"this machine is too busy to measure: the times of a network spread by more than {SPREAD:.0%} in "
        f"{TRIES} tries ({spread}); {running()}. What was measured is kept: stop the others, then give the "
        "same command again"
    )


def middle(times: Sequence[int], resolution: int) -> tuple[int, int]:
    """Median and interquartile range in nanoseconds, corrected for a clock that rounds down."""
    low, high = np.percentile(times, [25, 75])
    median = statistics.median_grouped(times, interval=resolution) + resolution / 2
    return round(median), round(high - low)


def running() -> str:
    """The processes that use most processor time."""
    others = [process for process in psutil.process_iter(["name"]) if process.pid != psutil.Process().pid]
    for each in (psutil.cpu_percent, *(process.cpu_percent for process in others)):
        _try(each)
    time.sleep(0.3)
    shares = sorted(((_try(process.cpu_percent), process.info["name"]) for process in others), reverse=True)
    named = [f"{name} {share:.0f} %" for share, name in shares[:5] if share >= BUSY]
    return (
        f"{psutil.cpu_percent():.0f} % of the processors are in use, by {', '.join(named) or 'none of note'}"
    )


def _try(percent: Callable[[], float]) -> float:
    try:
        return percent()
    except psutil.Error:  # it has ended, or is another user's
        return 0.0
