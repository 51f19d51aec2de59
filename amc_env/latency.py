"""Measured time as a resource: a table of each layer's nanoseconds on one machine.

A layer's time includes everything that runs until the next layer begins, so the times of all layers add up to
the network's. It is measured at some counts of the channel groups that the layer reads and writes. A count
between two of them is first rounded up to the block of channels that the processor handles at once, and then
interpolated between the two, which keeps the steps in the measured times. One factor and one constant, fitted
to whole networks, correct the sum.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amc_env import files
from amc_env.conditions import Conditions, LatencyError
from amc_env.graph.structure import Graph
from amc_env.latency_prices import LatencyPrices, LayerTimes

FORMAT = 1
RUNTIMES = ("onnxruntime", "torch")
MEASURE = "python -m experiments.latency {table} model=... data=..."


@dataclass(frozen=True)
class Fit:
    """How well the table predicts whole networks.

    Attributes:
        factor: measured time of whole networks over the sum of their layers' times, apart from a constant.
        spearman: rank correlation of predicted and measured time over other random plans.
        median_error: relative error of the prediction, median over the same plans.
        plans: the plans of the fit and the others: ``counts``, ``predicted_ns``, ``measured_ns`` and
            ``fitted``, true for a plan of the fit.
    """

    factor: float
    spearman: float
    median_error: float
    plans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LatencyTable:
    """A measured table, see `read` and `save`.

    Attributes:
        name: of the network, for people.
        conditions: what it was measured on and with.
        block: channels that the processor handles at once.
        counts: for each group, the measured counts, ascending.
        layers: times of each layer.
        rest_ns: time of a pass outside all layers, fitted together with the factor; negative if the layers'
            times include the overhead of the clock, as in a profile.
        fit: of whole networks.
        seconds: duration of the measurement.
        when: date and time of its end.
    """

    name: str
    conditions: Conditions
    block: int
    counts: Sequence[Sequence[int]]
    layers: Sequence[LayerTimes]
    rest_ns: int
    fit: Fit
    seconds: float
    when: str

    def prices(self) -> "LatencyPrices":
        """The cost of plans by this table."""
        return LatencyPrices(self.counts, self.layers, self.rest_ns, self.block, self.fit.factor)


def touched(graph: Graph) -> list[tuple[int, ...]]:
    """For each layer, the groups that it reads or writes, ascending.

    Raises:
        LatencyError: for a layer that touches more than two groups, or only a part of one.
    """
    found = []
    for layer in graph.layers:
        sides = [np.unique(graph.group_of[side]) for side in (layer.reads, layer.writes)]
        own = sorted({int(index) for side in sides for index in side if index >= 0})
        parts = [
            index
            for index in own
            for side in (layer.reads, layer.writes)
            if (some := np.isin(graph.groups[index].atoms, side)).any() and not some.all()
        ]
        if len(own) > 2 or parts:
            raise LatencyError(
                f"layer {layer.name} reads and writes {'parts of ' * bool(parts)}groups "
                f"{', '.join(map(str, own))}: a table holds layers of at most two whole groups; limit MACs "
                "or parameters instead"
            )
        found.append(tuple(own))
    return found


def save(table: LatencyTable, path: Path) -> None:
    """Write a table with its digest.

    Raises:
        LatencyError: when it cannot be written.
    """
    content = files.seal({"format": FORMAT} | asdict(table))
    try:
        files.write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise LatencyError(
            f"{path} cannot be written ({error.strerror}): choose another table=FILE"
        ) from error


def read(path: Path | str) -> LatencyTable:
    """A table from its file.

    Raises:
        LatencyError: when it is missing or damaged.
    """
    path = Path(path)
    table = shlex.quote(f"table={path}")
    again = f"measure it with `{MEASURE.format(table=table)}`"
    try:
        content = files.read_json(path)
        if (found := content.pop("format", None)) != FORMAT:
            raise LatencyError(f"{path} is of format {found}, not {FORMAT}; {again}")
        content["conditions"] = Conditions.of(content["conditions"])
        content["layers"] = [  # older files also hold the spread of the times
            LayerTimes(each["name"], tuple(each["groups"]), each["ns"]) for each in content["layers"]
        ]
        content["fit"] = Fit(**content["fit"])
        return LatencyTable(**content)
    except OSError as error:
        raise LatencyError(f"{path} cannot be read ({error.strerror}); {again}") from error
    except files.DamagedError as error:
        raise LatencyError(f"{error}; {again}") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise LatencyError(f"{path} is not a latency table ({error}); {again}") from error


def table_for(graph: Graph, path: Path | str, *, force: bool = False) -> LatencyTable:
    """Read the table for a search of a network on this machine.

    Args:
        graph: of the network.
        path: of the table.
        force: use it although it was measured on another machine, with another runtime, or of another network
            with as many layers and the same channels.

    Raises:
        LatencyError: when it is missing, damaged, measured under other conditions, or does not fit.
    """
    table = read(path)
    had = table.conditions
    had.check(had.again(graph), Path(path), force=force)
    if [each[-1] for each in table.counts] != [len(group) for group in graph.groups]:
        raise LatencyError(
            f"{path} is of another network, or of another keep_whole: its channel groups have other sizes"
        )
    return table
