"""Compares a latency table's predictions with measured times of whole networks."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc_env.conditions import Conditions, LatencyError
from amc_env.graph.structure import Graph
from amc_env.latency import LatencyTable
from experiments.delivery.export import write_onnx
from experiments.delivery.monitoring import Monitor, summary, take_turns, too_busy
from experiments.delivery.probes import VISIT, Pass, Probe, random_images, whole_onnx, whole_torch

REPEATS = 5  # the median of their medians is what a network takes
TURNS = 10  # of each network in a repeat


@dataclass(frozen=True, slots=True)
class Promise:
    """Milliseconds of a batch of one network.

    Attributes:
        promised_ms: by the latency table.
        measured_ms: median of the repeats.
        repeats_ms: medians of each repeat.
    """

    promised_ms: float
    measured_ms: float
    repeats_ms: Sequence[float]


def probes_of(
    networks: Mapping[str, nn.Module],
    files: Mapping[str, Path],
    graph: Graph,
    had: Conditions,
    folder: Path,
) -> dict[str, Probe]:
    """Make probes of delivered networks with the table's runtime, threads and batch.

    Args:
        networks: by name.
        files: exported networks, if any; the others are exported and deleted again.
        graph: of the dense network.
        had: conditions of the table.
        folder: for the others.
    """
    images = random_images(had.batch, had.shape)
    if had.runtime == "torch":
        torch.set_num_threads(had.threads)
        device = torch.device(had.device)
        return {name: whole_torch(network, graph, images, device) for name, network in networks.items()}
    found: dict[str, Probe] = {}
    for name, network in networks.items():
        path = files.get(name) or write_onnx(network, had.shape, folder / "timed.onnx")
        found[name] = whole_onnx(path.read_bytes(), images, had.threads)
        if name not in files:
            path.unlink()
    return found


def measured(
    probes: Mapping[str, Probe], *, repeats: int = REPEATS, turns: int = TURNS
) -> dict[str, list[float]]:
    """Milliseconds of a pass of each network in each repeat, all in turn.

    A turn is one pass that warms the caches and three that count, as in the table's measurement.
    """
    for probe in probes.values():
        for _ in range(1 + VISIT):
            probe.run()
    for _ in range(repeats * turns):
        for probe in probes.values():
            for _ in range(1 + VISIT):
                probe.run()
    return {name: _medians(probe.passes(), repeats, turns) for name, probe in probes.items()}


def undisturbed(
    probes: Mapping[str, Probe], monitor: Monitor, *, repeats: int = REPEATS, turns: int = TURNS
) -> dict[str, list[float]]:
    """Like `measured`, but repeats turns in which the machine was not calm, as for a table.

    Raises:
        LatencyError: when a network had no such turn in a repeat.
    """
    calm: dict[str, list[list[bool]]] = {name: [] for name in probes}
    for _ in range(repeats):
        for name, own in zip(probes, take_turns(list(probes.values()), monitor, turns), strict=True):
            calm[name].append(own)
    found: dict[str, list[float]] = {name: [] for name in probes}
    for name, probe in probes.items():
        passes, at = probe.passes(), 0
        for flags in calm[name]:
            end = at + len(flags) * (1 + VISIT)
            times = summary(passes[at:end], flags, probe.resolution)
            if not times["layers"] and times["whole"] == (0, 0):
                raise LatencyError(too_busy([times]))
            found[name].append(times["whole"][0] / 1e6)
            at = end
    return found


def _medians(passes: Sequence[Pass], repeats: int, turns: int) -> list[float]:
    size = 1 + VISIT
    counted = [each.whole for at, each in enumerate(passes[size:]) if at % size]
    own = VISIT * turns
    return [statistics.median(counted[at * own : (at + 1) * own]) / 1e6 for at in range(repeats)]


def promises(
    table: LatencyTable, counts: Mapping[str, Sequence[int]], taken: Mapping[str, Sequence[float]]
) -> dict[str, Promise]:
    """Promised and measured times.

    Args:
        table: of the network.
        counts: channels that each network keeps.
        taken: result of `measured`.
    """
    prices = table.prices()
    return {
        name: Promise(int(prices(counts[name])) / 1e6, statistics.median(repeats), list(repeats))
        for name, repeats in taken.items()
    }


def described(table: LatencyTable, graph: Graph) -> dict[str, Any]:
    """The table's conditions and how ours differ, as plain data."""
    had = table.conditions
    return {"conditions": asdict(had), "differences": had.differences(had.again(graph))}
