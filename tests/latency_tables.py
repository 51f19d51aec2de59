"""Hand-made latency tables, and a monitor of an idle machine, for tests."""

from amc_env.conditions import Conditions
from amc_env.graph.structure import Graph
from amc_env.latency import Fit, LatencyTable
from amc_env.latency_prices import LayerTimes

FIT = Fit(1.0, 1.0, 0.0, ())


def falling(graph: Graph, *, runtime: str = "torch") -> LatencyTable:
    """100 ns a channel of each group, but the last channel saves 50; 1,000 ns besides."""
    counts = [sorted({1, max(1, len(group) // 2), len(group) - 1, len(group)}) for group in graph.groups]
    layers = [
        LayerTimes(f"g{group}", (group,), [100 * count for count in each[:-1]] + [100 * each[-2] - 50])
        for group, each in enumerate(counts)
    ]
    here = Conditions.here(graph, runtime=runtime, threads=1, batch=1)
    return LatencyTable("digits_cnn", here, 1, counts, layers, 1000, FIT, 1.0, "today")


class Calm:
    """A monitor of a machine on which nothing else runs."""

    def calm(self) -> bool:
        return True

    def settles(self) -> bool:
        return True
