"""Measures a latency table: ``python -m experiments.latency table=FILE model=... runtime=onnxruntime``.

All layers are timed inside whole networks. One network gives a time of every layer, so as many networks as a
group has counts, squared, give each layer all pairs of counts that it can read and write: see `design`.
"""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from amc_env import files
from amc_env.checks import number_of
from amc_env.compressors.channels import allowed
from amc_env.conditions import Conditions, LatencyError, block_of
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.latency import Fit, LatencyTable, read, save, touched
from amc_env.latency_prices import LatencyPrices, LayerTimes
from experiments.cli.config import ConfigError
from experiments.cli.trained import network_of, shape_of
from experiments.delivery.bench import Bench
from experiments.delivery.design import design, random_plans, thinned
from experiments.delivery.monitoring import Monitor, interleaved
from experiments.recording import chain
from experiments.recording.lock import alone
from experiments.recording.progress import Meter
from experiments.recording.record import plain

LEVELS = 13  # counts of a group that are measured; more are thinned, in equal ratios
ROUND_TO = 8  # as plans are rounded, see `amc_env.compressors.channels.allowed`
PLANS = 30  # random plans for the factor, and as many for its error
LEAST = 4  # plans in all: factor and offset need two

START = "latency"  # of the chain of rows that were measured
LAYERS, WHOLE = "layers", "whole"  # what is timed of a network

Job = tuple[str, tuple[int, ...]]  # one of both, and the counts of a plan


def main(cfg: DictConfig) -> None:
    """Measure the table, or continue a killed run, and print how well it predicts whole networks."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch finds no graphics card here: give device=cpu")
    path = Path(cfg.table)
    with alone(path.parent, otherwise="choose another table=FILE", name=path.name):
        _tabulate(cfg, path)


def _tabulate(cfg: DictConfig, path: Path) -> None:
    shape, classes = shape_of(cfg)
    model = network_of(cfg, shape, classes).eval()
    graph = trace(model, shape, keep_whole=cfg.keep_whole)
    touched(graph)  # a network that no table holds is told before anything is measured
    here = Conditions.here(
        graph, runtime=cfg.runtime, threads=cfg.threads, batch=cfg.batch, device=cfg.device
    )
    if path.exists():
        table = read(path)
        table.conditions.check(here, path, force=cfg.force)
        print(f"{path} is finished: nothing to do; choose another table=FILE to measure again")
        show(table)
        return
    name = cfg.model.options.get("target", cfg.model.name)
    bench = Bench(model, graph, runtime=cfg.runtime, device=cfg.device, threads=cfg.threads, batch=cfg.batch)
    try:
        table = made(bench, here, path, name, floor=cfg.floor, repeats=cfg.repeats, force=cfg.force)
    finally:
        bench.close()
    show(table)


def made(
    bench: Bench, here: Conditions, path: Path, name: str, *, floor: float, repeats: int, force: bool
) -> LatencyTable:
    """Measure a table; until it is complete, the measurements are kept in a file beside it.

    Args:
        bench: makes probes of the network.
        here: conditions of this machine.
        path: of the table.
        name: of the network.
        floor: smallest fraction of a group.
        repeats: passes of each network that count.
        force: continue measurements of other conditions.

    Raises:
        LatencyError: when the machine is too busy, a file cannot be used, or the network has too few plans.
    """
    graph = bench.graph
    offered = [allowed(group, ROUND_TO, floor) for group in graph.groups]
    counts = [thinned(each, LEVELS) for each in offered]
    part = path.with_name(f"{path.name}.part")
    rows = resumed(part, here, counts, force=force)
    drawn = list(dict.fromkeys(random_plans(offered, 4 * PLANS)))[: 2 * PLANS]
    if len(drawn) < LEAST:
        raise LatencyError(
            f"{name} has {number_of(len(drawn), 'plan')} with at least {floor:g} of each group, too few to "
            "fit a table and to check it: give a lower floor, or time whole networks with "
            "`latency checkpoint=...`"
        )
    jobs = mixed(design(touched(graph), counts), drawn)
    measure(bench, jobs, rows, part, repeats=repeats)
    table = tabulated(name, here, graph, counts, [(*job, rows[job]) for job in jobs])
    save(table, path)
    part.unlink()
    return table


def mixed(layers: Sequence[tuple[int, ...]], whole: Sequence[tuple[int, ...]]) -> list[Job]:
    """Interleave both kinds of jobs evenly, so that the machine's state affects both alike."""
    each = {LAYERS: layers, WHOLE: whole}
    jobs = [
        ((at + 0.5) / len(plans), kind, plan) for kind, plans in each.items() for at, plan in enumerate(plans)
    ]
    return [(kind, plan) for _, kind, plan in sorted(jobs, key=lambda job: job[0])]


def resumed(part: Path, here: Conditions, counts: Sequence[Sequence[int]], *, force: bool) -> dict[Job, Any]:
    """The measurements of an interrupted run of this table, by job; starts its file if there is none.

    Raises:
        LatencyError: when the file is damaged, of other conditions or counts, or cannot be written.
    """
    head = {"conditions": asdict(here), "counts": [list(each) for each in counts]}
    try:
        if not part.exists():
            begin(part, [head])
            return {}
        (before, *rows), _, torn = chain.read(part, START)
        if torn:
            begin(part, [before, *rows])
    except (OSError, ValueError) as error:
        raise LatencyError(
            f"{part} cannot be used ({error}): delete it, or choose another table=FILE"
        ) from error
    if before["counts"] != head["counts"]:
        raise LatencyError(f"{part} is of other counts of channels: delete it, or give the floor that it had")
    Conditions.of(before["conditions"]).check(here, part, force=force)
    return {(row["kind"], tuple(row["counts"])): row["times"] for row in rows}


def begin(part: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of all measurements so far: conditions and counts, then rows."""
    digest, lines = START, list[str]()
    for row in rows:
        digest = chain.link(digest, row)
        lines.append(chain.line(row, digest))
    files.write(part, "".join(lines))


def measure(bench: Bench, jobs: Sequence[Job], rows: dict[Job, Any], part: Path, *, repeats: int) -> None:
    """Measure every job without a row; each row is written at once.

    Raises:
        LatencyError: when the machine is too busy.
    """
    makers = {LAYERS: bench.layered, WHOLE: bench.whole}
    todo = list(dict.fromkeys(job for job in jobs if job not in rows))
    with (
        threadpool_limits(1, user_api="blas"),
        Meter("networks", len(jobs), done=len(jobs) - len(todo)) as meter, part.open("a") as file,
    ):  # fmt: skip
        start, digest = time.monotonic(), chain.read(part, START)[1][-1]
        for (kind, plan), times in interleaved(
            lambda job: makers[job[0]](job[1]), todo, Monitor(), repeats=repeats
        ):
            now = time.monotonic()
            rows[kind, plan] = times | {"seconds": now - start}
            row = plain({"kind": kind, "counts": plan, "times": rows[kind, plan]})
            digest = chain.link(digest, row)
            file.write(chain.line(row, digest))
            file.flush()
            start = now
            meter.update(ms=times["whole"][0] / 1e6)


def tabulated(
    name: str,
    conditions: Conditions,
    graph: Graph,
    counts: Sequence[Sequence[int]],
    rows: Sequence[tuple[str, tuple[int, ...], Mapping[str, Any]]],
) -> LatencyTable:
    """Make the table from the measurements.

    Args:
        name: of the network.
        conditions: of the measurement.
        graph: of the dense network.
        counts: for each group, the measured counts.
        rows: kind, plan and times of each job.
    """
    layered = [(plan, times["layers"]) for kind, plan, times in rows if kind == LAYERS]
    layers = [
        _layer(layer.name, own, counts, [(plan, times[index]) for plan, times in layered])
        for index, (layer, own) in enumerate(zip(graph.layers, touched(graph), strict=True))
    ]
    block = block_of(conditions.features)
    whole = [(plan, times["whole"][0]) for kind, plan, times in rows if kind == WHOLE]
    fit, rest_ns = fitted(LatencyPrices(counts, layers, 0, block, 1.0), whole)
    seconds = round(sum(times["seconds"] for *_, times in rows), 1)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return LatencyTable(
        name, conditions, block, [list(each) for each in counts], layers, rest_ns, fit, seconds, when
    )


def _layer(
    name: str,
    groups: tuple[int, ...],
    counts: Sequence[Sequence[int]],
    found: Iterable[tuple[tuple[int, ...], tuple[int, int]]],
) -> LayerTimes:
    """A layer's medians over all plans with the same counts in the groups that it touches."""
    cells: dict[tuple[int, ...], list[int]] = {}
    for plan, (median, _) in found:
        cells.setdefault(tuple(plan[group] for group in groups), []).append(median)
    ns = np.zeros([len(counts[group]) for group in groups], dtype=np.int64)
    for cell, medians in cells.items():
        at = tuple(list(counts[group]).index(own) for group, own in zip(groups, cell, strict=True))
        ns[at] = round(statistics.median(medians))
    return LayerTimes(name, groups, ns.tolist())


def fitted(prices: LatencyPrices, whole: Sequence[tuple[tuple[int, ...], int]]) -> tuple[Fit, int]:
    """Fit a factor and an offset, in nanoseconds, to the first half of the whole networks.

    Args:
        prices: of the table, without factor and offset.
        whole: plans and measured nanoseconds; the second half measures the error.
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
    ordered = np.ptp(predicted[half:]) > 0 and np.ptp(measured[half:]) > 0
    rank = float(spearmanr(predicted[half:], measured[half:]).statistic) if ordered else 0.0
    return Fit(float(factor), rank, float(np.median(error)), plans), round(rest)


def show(table: LatencyTable) -> None:
    """Print the table's times of the dense network, and how well it predicts others."""
    dense, had = int(table.prices()([each[-1] for each in table.counts])), table.conditions
    checked = sum(not plan["fitted"] for plan in table.fit.plans)
    print(
        f"{table.name} in {had.runtime} {had.version}, batch {had.batch}, "
        f"{number_of(had.threads, 'thread')}, {had.processor}: {dense / 1e6:.3f} ms\n"
        f"whole networks: {table.fit.factor:.3f} times the layers' sum {table.rest_ns / 1e3:+.0f} us; "
        f"over {number_of(checked, 'other random plan')} Spearman "
        f"{table.fit.spearman:.3f}, median error {table.fit.median_error:.1%}"
    )
