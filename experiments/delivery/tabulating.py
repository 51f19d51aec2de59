"""Measures a latency table: ``python -m experiments.latency table=FILE model=... runtime=onnxruntime``.

All layers are timed inside whole networks. One network gives a time of every layer, so as many networks as a
group has counts, squared, give each layer all pairs of counts that it can read and write: see `design`.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from omegaconf import DictConfig
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from amc_env.compressors.channels import allowed
from amc_env.cost import Ints
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.latency import (
    Conditions,
    Fit,
    LatencyError,
    LatencyPrices,
    LatencyTable,
    LayerTimes,
    block_of,
    read,
    save,
    touched,
)
from experiments.analysis.describe import images, network
from experiments.cli.config import ConfigError
from experiments.delivery.probes import Bench, Pass, Probe
from experiments.recording.progress import Meter

LEVELS = 13  # counts of a group that are measured; more are thinned, in equal ratios
ROUND_TO = 8  # as plans are rounded, see `amc_env.compressors.channels.allowed`
PLANS = 30  # random plans for the factor, and as many for its error
TOGETHER = 8  # networks that take turns
VISIT = 3  # passes of a network at its turn that count, after one that warms the caches
TRIES = 3
SPREAD = 0.10  # above the lower quartile, or the monitor's best, something has disturbed
PATIENCE = 300  # samples of the monitor, half a millisecond each
BUSY = 5.0  # percent of a processor from which a process is named

Times = list[tuple[int, int]]  # of each layer, median and interquartile range in nanoseconds


def main(cfg: DictConfig) -> None:
    """Measure the table, or go on where a killed run was, and print how well it predicts whole networks."""
    check(cfg)
    path, start = Path(cfg.table), time.monotonic()
    shape, classes = images(cfg)
    model = network(cfg, shape, classes).eval()
    graph = trace(model, shape)
    ends = touched(graph)
    here = Conditions.here(
        graph, runtime=cfg.runtime, threads=cfg.threads, batch=cfg.batch, device=cfg.device
    )
    if path.exists():
        table = read(path)
        table.conditions.check(here, path, force=cfg.force)
        print(f"{path} is finished: nothing to do; choose another table=FILE to measure again")
        show(table)
        return
    offered = [allowed(group, ROUND_TO, cfg.floor) for group in graph.groups]
    counts = [thinned(each, LEVELS) for each in offered]
    part = path.with_name(f"{path.name}.part")
    rows = resumed(part, here, counts, force=cfg.force)
    bench = Bench(model, graph, runtime=cfg.runtime, device=cfg.device, threads=cfg.threads, batch=cfg.batch)
    try:
        jobs = [("layers", plan) for plan in design(ends, counts)]
        jobs += [("whole", plan) for plan in random_plans(offered, 2 * PLANS)]
        measure(bench, jobs, rows, part, repeats=cfg.repeats)
    finally:
        bench.close()
    name = cfg.model.options.get("target", cfg.model.name)
    seconds = time.monotonic() - start
    table = tabulated(name, here, graph, ends, counts, [rows[job] for job in jobs], jobs, seconds)
    save(table, path)
    part.unlink()
    show(table)


def check(cfg: DictConfig) -> None:
    """Refuse what cannot be measured before anything is built.

    Raises:
        ConfigError: with what can.
    """
    if cfg.device not in ("cpu", "cuda") or (cfg.device == "cuda" and cfg.runtime != "torch"):
        raise ConfigError(f"device is {cfg.device!r} with {cfg.runtime}; cpu, or cuda with runtime=torch")
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch finds no graphics card here: give device=cpu")


def thinned(choices: Ints, most: int) -> list[int]:
    """At most so many of ascending counts, in equal ratios; first and last are among them."""
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
        ends: of each layer the groups that it touches.
        counts: of each group those that are measured.
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


def resumed(
    part: Path, here: Conditions, counts: Sequence[Sequence[int]], *, force: bool
) -> dict[tuple[str, tuple[int, ...]], Any]:
    """What an interrupted run of the same table has measured, by job; begins its file where there is none.

    Raises:
        LatencyError: when the file is of other conditions or counts, or cannot be written.
    """
    head = {"conditions": asdict(here), "counts": [list(each) for each in counts]}
    try:
        if not part.exists():
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(head) + "\n")
            return {}
        first, *lines = part.read_text().splitlines()
        before = json.loads(first)
    except (OSError, ValueError) as error:
        raise LatencyError(
            f"{part} cannot be used ({error}): delete it, or choose another table=FILE"
        ) from error
    if before["counts"] != head["counts"]:
        raise LatencyError(f"{part} is of other counts of channels: delete it, or give the floor that it had")
    Conditions.of(before["conditions"]).check(here, part, force=force)
    rows = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            break
        rows[row["kind"], tuple(row["counts"])] = row["times"]
    return rows


def measure(
    bench: Bench,
    jobs: Sequence[tuple[str, tuple[int, ...]]],
    rows: dict[tuple[str, tuple[int, ...]], Any],
    part: Path,
    *,
    repeats: int,
) -> None:
    """Measure every job that has no row yet; each row is written as soon as it is there.

    Raises:
        LatencyError: when the machine is too busy.
    """
    makers = {"layers": bench.layered, "whole": bench.whole}
    done = sum(job in rows for job in jobs)
    with (
        threadpool_limits(1, user_api="blas"), Meter("networks", len(jobs), done=done) as meter,
        part.open("a") as file,
    ):  # fmt: skip
        monitor = Monitor()
        for kind, make in makers.items():
            todo = dict.fromkeys(plan for other, plan in jobs if other == kind and (kind, plan) not in rows)
            for plan, times in interleaved(make, list(todo), monitor, repeats=repeats):
                rows[kind, plan] = times
                file.write(json.dumps({"kind": kind, "counts": plan, "times": times}) + "\n")
                file.flush()
                meter.update(ms=times["whole"][0] / 1e6)


class Monitor:
    """Whether the processor is as fast as it was at its best, by the time of a small product of matrices.

    Args:
        clock: nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock, self._matrix = clock, np.ones((160, 160), dtype=np.float32)
        self._best = min(self._sample() for _ in range(100))

    def _sample(self) -> float:
        times = []
        for _ in range(5):
            start = self._clock()
            self._matrix @ self._matrix
            times.append(self._clock() - start)
        return statistics.median(times)

    def calm(self) -> bool:
        """Whether it takes at most a tenth longer than at best."""
        now = self._sample()
        self._best = min(self._best, now)
        return now <= (1 + SPREAD) * self._best

    def settles(self) -> bool:
        """Whether it is calm within a few hundred samples."""
        return any(self.calm() for _ in range(PATIENCE))


def interleaved(
    make: Callable[[Sequence[int]], Probe],
    plans: Sequence[tuple[int, ...]],
    monitor: Monitor,
    *,
    repeats: int,
) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Time plans in turn, a few at once; what was disturbed is timed again.

    Yields:
        A plan and its times: ``whole`` and each of ``layers``, median and interquartile range.

    Raises:
        LatencyError: when three times more than half of a network's passes were disturbed.
    """
    rounds = -(-repeats // VISIT)
    for first in range(0, len(plans), TOGETHER):
        chunk = plans[first : first + TOGETHER]
        found: dict[tuple[int, ...], dict[str, Any]] = {}
        for _ in range(TRIES):
            probes = {plan: make(plan) for plan in chunk if plan not in found or not steady(found[plan])}
            turns = take_turns(list(probes.values()), monitor, rounds)
            for (plan, probe), calm in zip(probes.items(), turns, strict=True):
                found[plan] = summary(probe.passes(), calm, probe.resolution)
            if all(map(steady, found.values())):
                break
        else:
            raise LatencyError(too_busy([times for times in found.values() if not steady(times)]))
        yield from ((plan, found[plan]) for plan in chunk)


def take_turns(probes: Sequence[Probe], monitor: Monitor, rounds: int) -> list[list[bool]]:
    """Run probes in turn, after a first round that warms up; of each whether its turns were undisturbed.

    A turn waits until the processor is calm, and is repeated where it is not calm after it.
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

    The first round and the first pass of each turn warm up. A pass is disturbed when its turn was, or when it
    takes a tenth longer than the lower quartile. ``spread`` is what the median of all calm turns is above
    that quartile, relative to it.
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
    """Why the times that are left cannot be used, and what to do."""
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
    """Median and interquartile range of nanoseconds that a clock of that resolution rounds down."""
    low, high = np.percentile(times, [25, 75])
    median = statistics.median_grouped(times, interval=resolution) + resolution / 2
    return round(median), round(high - low)


def running() -> str:
    """The processes that keep the processors busy."""
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


def tabulated(
    name: str,
    conditions: Conditions,
    graph: Graph,
    ends: Sequence[tuple[int, ...]],
    counts: Sequence[Sequence[int]],
    rows: Sequence[Mapping[str, Any]],
    plans: Sequence[tuple[str, tuple[int, ...]]],
    seconds: float,
) -> LatencyTable:
    """The table of what was measured.

    Args:
        name: of the network.
        conditions: of the measurement.
        graph: of the dense network.
        ends: of each layer the groups that it touches.
        counts: of each group those that were measured.
        rows: times of each job.
        plans: the jobs.
        seconds: that it took.
    """
    layered = [(plan, row) for (kind, plan), row in zip(plans, rows, strict=True) if kind == "layers"]
    whole = [
        (plan, row["whole"][0]) for (kind, plan), row in zip(plans, rows, strict=True) if kind == "whole"
    ]
    layers = [
        _layer(layer.name, own, counts, [(plan, row["layers"][index]) for plan, row in layered])
        for index, (layer, own) in enumerate(zip(graph.layers, ends, strict=True))
    ]
    block = block_of(conditions.features)
    fit, rest_ns = fitted(LatencyPrices(counts, layers, 0, block, 1.0), whole)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return LatencyTable(
        name,
        conditions,
        block,
        [list(each) for each in counts],
        layers,
        rest_ns,
        fit,
        round(seconds, 1),
        when,
    )


def _layer(
    name: str,
    groups: tuple[int, ...],
    counts: Sequence[Sequence[int]],
    found: Iterable[tuple[tuple[int, ...], tuple[int, int]]],
) -> LayerTimes:
    """A layer's medians over all plans that agree in the groups that it touches."""
    cells: dict[tuple[int, ...], Times] = {}
    for plan, (median, spread) in found:
        cells.setdefault(tuple(plan[group] for group in groups), []).append((median, spread))
    sizes = [len(counts[group]) for group in groups]
    tables = [np.zeros(sizes, dtype=np.int64) for _ in range(2)]
    for cell, times in cells.items():
        at = tuple(list(counts[group]).index(own) for group, own in zip(groups, cell, strict=True))
        for table, values in zip(tables, zip(*times, strict=True), strict=True):
            table[at] = round(statistics.median(values))
    ns, ranges = (table.tolist() for table in tables)
    return LayerTimes(name, groups, ns, ranges)


def fitted(prices: LatencyPrices, whole: Sequence[tuple[tuple[int, ...], int]]) -> tuple[Fit, int]:
    """Factor and rest, in nanoseconds, of least relative error in the first half of whole networks.

    Args:
        prices: of the table, without both.
        whole: plans and measured nanoseconds; the second half tells the error.
    """
    sums = prices(np.array([plan for plan, _ in whole])).astype(float)
    measured = np.array([ns for _, ns in whole], dtype=float)
    half = len(whole) // 2
    design = np.stack([sums[:half], np.ones(half)], axis=1) / measured[:half, None]
    factor, rest = np.linalg.lstsq(design, np.ones(half))[0]
    predicted = factor * sums + rest
    error = np.abs(predicted[half:] / measured[half:] - 1)
    plans = [
        {
            "counts": list(plan), "predicted_ns": round(predicted[at]), "measured_ns": ns,
            "fitted": at < half,
        }
        for at, (plan, ns) in enumerate(whole)
    ]  # fmt: skip
    rank = float(spearmanr(predicted[half:], measured[half:]).statistic)
    return Fit(float(factor), rank, float(np.median(error)), plans), round(rest)


def show(table: LatencyTable) -> None:
    """Print what the table says of the dense network, and how well it predicts others."""
    dense, had = int(table.prices()([each[-1] for each in table.counts])), table.conditions
    checked = sum(not plan["fitted"] for plan in table.fit.plans)
    print(
        f"{table.name} in {had.runtime} {had.version}, batch {had.batch}, {had.threads} thread"
        f"{'s' * (had.threads > 1)}, {had.processor}: {dense / 1e6:.3f} ms\n"
        f"whole networks: {table.fit.factor:.3f} times the layers' sum {table.rest_ns / 1e3:+.0f} us; "
        f"over {checked} other random plans Spearman "
        f"{table.fit.spearman:.3f}, median error {table.fit.median_error:.1%}"
    )
