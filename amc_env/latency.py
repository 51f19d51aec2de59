"""Measured time as a resource: a table of each layer's nanoseconds on one machine, and what plans cost by it.

A layer's time is that of all that runs until the next layer begins, so the layers of a network add up to it.
It is measured at some counts of the channel groups that the layer reads and writes. A count between two of
them is first rounded up to the block of channels that the processor handles at once, and then interpolated
between the two, so that the machine's steps stay. One factor and one constant, fitted to whole networks,
correct the sum.
"""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amc_env import files
from amc_env.cost import Ints
from amc_env.graph.structure import Graph

FORMAT = 1
RUNTIMES = ("onnxruntime", "torch")
BLOCK = {"avx512f": 16, "avx2": 8}  # float32 channels in a vector register, by processor feature
DROP = 1.5  # a step is a drop where it saves this many times the average of as many channels
MEASURE = "python -m experiments.latency table={path} model=... data=..."


class LatencyError(ValueError):
    """A latency table that is missing, damaged or of something else, or a network that has none."""


@dataclass(frozen=True)
class Conditions:
    """What a table was measured of, on and with; times of other conditions cannot be compared.

    Attributes:
        network: hash of the graph.
        shape: C, H, W of an image.
        device: "cpu" or "cuda".
        processor: its name, or that of the graphics card.
        features: vector instructions of the processor.
        runtime: a name in `RUNTIMES`.
        version: of the runtime.
        threads: that it had.
        batch: images in a pass.
    """

    network: str
    shape: tuple[int, int, int]
    device: str
    processor: str
    features: tuple[str, ...]
    runtime: str
    version: str
    threads: int
    batch: int

    @classmethod
    def here(
        cls, graph: Graph, *, runtime: str, threads: int, batch: int, device: str = "cpu"
    ) -> "Conditions":
        """Those of this machine.

        Args:
            graph: of the network.
            runtime: a name in `RUNTIMES`.
            threads: for it.
            batch: images in a pass.
            device: "cpu" or "cuda".
        """
        processor, features = _processor()
        if device == "cuda":
            processor = torch.cuda.get_device_name() if torch.cuda.is_available() else "no graphics card"
        version = metadata.version(runtime)
        return cls(
            graph.hash, graph.shape, device, processor, features, runtime, version, threads, batch
        )  # fmt: skip

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Conditions":
        """Those that a file holds.

        Raises:
            LatencyError: when it lacks one or holds another.
        """
        known = {entry.name for entry in fields(cls)}
        if content.keys() != known:
            raise LatencyError(f"its conditions are {sorted(content)}, not {sorted(known)}")
        given: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in content.items()
        }
        return cls(**given)

    def differences(self, other: "Conditions") -> list[str]:
        """One line for each condition that is another one."""
        ours, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the table has {_text(ours[name])}, here it is {_text(theirs[name])}"
            for name in ours
            if ours[name] != theirs[name]
        ]

    def check(self, other: "Conditions", path: Path, *, force: bool) -> None:
        """Raise a `LatencyError` that names each difference, unless it is to be used all the same."""
        if not force and (found := self.differences(other)):
            raise LatencyError(
                f"{path} was measured under other conditions; {'; '.join(found)}. Measure another table, or "
                "use this one all the same with force=true"
            )


@dataclass(frozen=True)
class LayerTimes:
    """Nanoseconds of one layer at the counts of the groups that it touches.

    Attributes:
        name: of the layer.
        groups: the channel groups that it reads or writes, ascending; none, one or two.
        ns: medians; a number, a list by the count of the one group, or a list of lists by both.
        spread_ns: interquartile ranges, likewise.
    """

    name: str
    groups: tuple[int, ...]
    ns: Any
    spread_ns: Any


@dataclass(frozen=True)
class Fit:
    """How the table predicts whole networks.

    Attributes:
        factor: measured time of whole networks over the sum of their layers', beside a constant rest.
        spearman: rank correlation of predicted and measured time over other random plans.
        median_error: of prediction, relative to the measured time, over these.
        plans: ``counts``, ``predicted_ns``, ``measured_ns`` of both, and ``fitted``: whether the factor is
            from the plan.
    """

    factor: float
    spearman: float
    median_error: float
    plans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LatencyTable:
    """A measured table; `read` and `save`.

    Attributes:
        name: of the network, for people.
        conditions: see there.
        block: channels that the processor handles at once.
        counts: of each group those that were measured, ascending.
        layers: their times.
        rest_ns: of a pass outside of all layers, fitted with the factor; negative where the layers' times
            hold the clock's own, as with a profile.
        fit: to whole networks.
        seconds: that it took.
        when: it was finished.
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
        """What plans cost by the table."""
        return LatencyPrices(self.counts, self.layers, self.rest_ns, self.block, self.fit.factor)

    def drops(self, group: int) -> Ints:
        """The measured counts of a group below which little is gained: the next larger costs much more.

        All others are whole. A step up costs much from 1.5 times the average of as many channels.
        """
        counts = np.array(self.counts[group])
        if len(counts) < 2:
            return counts[:0]
        whole = np.array([each[-1] for each in self.counts])
        times = self.prices().column(whole, group, counts)
        average = max(times[-1] - times[0], 1) / (counts[-1] - counts[0])
        found: Ints = counts[:-1][np.diff(times) > DROP * average * np.diff(counts)]
        return found


class LatencyPrices:
    """Nanoseconds of plans.

    Args:
        counts: of each group those that were measured.
        layers: their times.
        rest_ns: of a pass outside of all layers, negative where these hold the clock's own time.
        block: channels that the processor handles at once.
        factor: the layers' times are multiplied with.
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
    """``(largest + 1,)`` where each count lies among the measured ones: 1.5 is between the second and third.

    >>> _positions([8, 24, 64], 16)[[8, 9, 24, 25, 40, 64]].tolist()
    [0.0, 0.5, 1.0, 1.2, 1.4, 2.0]
    """
    every = np.arange(counts[-1] + 1)
    after = np.array(counts)[np.searchsorted(counts, every)]
    blocks = np.minimum(-(-every // block) * block, after)
    rounded = np.where(np.isin(every, counts), every, blocks)
    return np.interp(rounded, counts, np.arange(len(counts)))


def touched(graph: Graph) -> list[tuple[int, ...]]:
    """Of each layer the groups that it reads or writes, ascending.

    Raises:
        LatencyError: where they do not tell its widths: more than two, or a part of one.
    """
    group_of = np.full(graph.atoms, -1)
    for group in graph.groups:
        group_of[group.atoms] = group.index
    found = []
    for layer in graph.layers:
        sides = [np.unique(group_of[side]) for side in (layer.reads, layer.writes)]
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
    again = f"measure it with `{MEASURE.format(path=path)}`"
    try:
        content = files.read_json(path)
        if (found := content.pop("format", None)) != FORMAT:
            raise LatencyError(f"{path} is of format {found}, not {FORMAT}; {again}")
        content["conditions"] = Conditions.of(content["conditions"])
        content["layers"] = [
            LayerTimes(**each | {"groups": tuple(each["groups"])}) for each in content["layers"]
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
    """The table of a network that is searched here.

    Args:
        graph: of it.
        path: of the table.
        force: use it although it was measured on another machine, with another runtime, or of another network
            with as many layers and the same channels.

    Raises:
        LatencyError: when it is missing, damaged, of other conditions, or does not fit.
    """
    table = read(path)
    had = table.conditions
    here = Conditions.here(
        graph, runtime=had.runtime, threads=had.threads, batch=had.batch, device=had.device
    )
    had.check(here, Path(path), force=force)
    if [each[-1] for each in table.counts] != [len(group) for group in graph.groups]:
        raise LatencyError(f"{path} is of another network: its channel groups have other sizes")
    return table


def block_of(features: Sequence[str]) -> int:
    """Channels that a processor with these features handles at once; 4 where it has neither AVX."""
    return next((size for feature, size in BLOCK.items() if feature in features), 4)


def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), ()
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    vector = [
        flag for flag in (flags[1].split() if flags else ()) if re.match(r"avx|amx|fma$|asimd|sve", flag)
    ]
    return f"{name[1] if name else platform.machine()}, {os.cpu_count()} cores", tuple(sorted(vector))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
