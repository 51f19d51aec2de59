"""A network layer by layer: rows, three ways to print them, and a picture."""

import colorsys
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc_env.cost import Macs, Params, dense_widths, macs, weights
from amc_env.graph.structure import Atoms, Graph, Layer
from experiments.analysis import markdown

Colour = str | tuple[float, float, float]

GOLDEN = 0.618034  # of the circle of hues: neighbours differ, and none is taken twice
STAYS = "lightgrey"  # channels that no decision removes


@dataclass(frozen=True, slots=True)
class Times:
    """Median milliseconds within a forward pass: each layer by name, and the rest."""

    layers: Mapping[str, float]
    rest: float


@dataclass(frozen=True, slots=True)
class Row:
    """A layer, the rest of a network, or its total.

    Attributes:
        name: of the module.
        kind: "standard", "pointwise", "grouped", "depthwise", "transposed" or "linear"; "rest", "total".
        kernel: height and width; empty where there is none.
        input: C, H, W; for a linear layer on a vector, its length.
        output: likewise.
        macs: multiply-accumulates for one image, all calls together.
        macs_percent: share of the network's MACs.
        params: weights and biases of a layer; batch norms are in the rest.
        params_percent: share of the network's parameters.
        ms: median milliseconds for one image, all calls together; the total is the sum of these medians.
        reads: the decisions whose channels it reads; None for channels that always stay.
        writes: likewise.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]
    macs: int
    macs_percent: float
    params: int
    params_percent: float
    ms: float
    reads: tuple[int | None, ...] = ()
    writes: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Separable:
    """Depthwise-separable pairs: a depthwise convolution and the pointwise one that reads it.

    *Source*: Howard et al., "MobileNets" (2017), section 3.1.

    Attributes:
        pairs: their number.
        macs_percent: their share of the network's MACs.
        standard: MACs of standard convolutions with the same kernels and widths, as a multiple of theirs.
    """

    pairs: int
    macs_percent: float
    standard: float


def kind(layer: Layer) -> str:
    """The usual name of a layer's kind."""
    if layer.kind != "conv":
        return layer.kind
    if layer.groups > 1:
        return "grouped"
    return "pointwise" if layer.taps == 1 else "standard"


def decisions(graph: Graph, atoms: Atoms) -> dict[int | None, int]:
    """How many of these channels belong to each decision, in order of position; None if they always stay."""
    counts = Counter(graph.group_of[atoms].tolist())
    return {None if index < 0 else index: count for index, count in counts.items()}


def rows(graph: Graph, times: Times) -> list[Row]:
    """A row a layer in forward order, one for the rest, one for the whole."""
    cost, params = _whole(graph)
    found = []
    for layer in graph.layers:
        own, numbers = _macs(layer), weights(layer, layer.c_in, layer.c_out) + layer.bias * layer.c_out
        found.append(Row(
            layer.name, kind(layer), () if layer.kind == "linear" else layer.kernel,
            _shape(layer, layer.c_in, layer.in_size), _shape(layer, layer.c_out, layer.out_size),
            own, _percent(own, cost), numbers, _percent(numbers, params), round(times.layers[layer.name], 4),
            tuple(decisions(graph, layer.reads)), tuple(decisions(graph, layer.writes)),
        ))  # fmt: skip
    rest, ms = params - sum(row.params for row in found), sum(times.layers.values()) + times.rest
    rest_ms, ms = round(times.rest, 4), round(ms, 4)
    logits = (len(graph.outputs),)
    return [
        *found,
        Row("everything else", "rest", (), (), (), 0, 0.0, rest, _percent(rest, params), rest_ms),
        Row("total", "total", (), graph.shape, logits, cost, 100.0, params, 100.0, ms),
    ]


def separable(graph: Graph) -> Separable | None:
    """A network's depthwise-separable pairs; None without any."""
    pairs = []
    for at, depthwise in enumerate(graph.layers):
        behind = (
            layer for layer in graph.layers[at + 1 :]
            if kind(layer) == "pointwise" and np.array_equal(layer.reads, depthwise.writes)
            and layer.in_size == depthwise.out_size  # not the squeeze of a squeeze-and-excitation
        )  # fmt: skip
        reader = next(behind, None)
        if depthwise.kind == "depthwise" and reader is not None:
            pairs.append((depthwise, reader))
    if not pairs:
        return None
    taken = sum(_macs(layer) for pair in pairs for layer in pair)
    standard = sum(reader.positions * one.taps * one.c_in * reader.c_out for one, reader in pairs)
    return Separable(len(pairs), _percent(taken, _whole(graph)[0]), round(standard / taken, 4))


def as_markdown(table: Sequence[Row]) -> str:
    """A table whose columns are aligned, so that a terminal shows it as one."""
    head = ["layer", "kind", "kernel", "in", "out", "MACs", "%", "params", "%", "ms", "reads", "writes"]
    cells = [
        [row.name, row.kind, _sizes(row.kernel), _sizes(row.input), _sizes(row.output),
         f"{row.macs:,}", f"{row.macs_percent:.2f}", f"{row.params:,}", f"{row.params_percent:.2f}",
         f"{row.ms:.3f}", _indices(row.reads), _indices(row.writes)]
        for row in table
    ]  # fmt: skip
    return markdown.aligned(head, cells, right=("MACs", "%", "params", "ms"))


def as_csv(table: Sequence[Row]) -> str:
    """A line a row: shapes as 16x28x28, decisions with a space between them, "-" for what stays."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in table:
        cells = {key: _sizes(getattr(row, key)) for key in ("kernel", "input", "output")}
        cells |= {key: _indices(getattr(row, key)) for key in ("reads", "writes")}
        writer.writerow(asdict(row) | cells)
    return text.getvalue().rstrip("\n")


def as_json(table: Sequence[Row], graph: Graph, model: str) -> str:
    """One object: the rows, each decision with its channels and readers, and why other channels stay."""
    *layers, rest, total = map(asdict, table)
    pairs = separable(graph)
    groups = [
        {
            "index": group.index,
            "channels": group.width,
            "read_by": [graph.layers[at].name for at in group.layers],
        }
        for group in graph.groups
    ]
    content = {
        "model": model, "layers": layers, "rest": rest, "total": total, "decisions": groups,
        "stays": graph.notes, "separable": None if pairs is None else asdict(pairs),
    }  # fmt: skip
    return json.dumps(content, indent=2)


def draw(graph: Graph, path: Path) -> None:
    """Draw layers as bars of their share of the MACs, above the decisions that each reads and writes."""
    layers, depth = graph.layers, len(graph.groups)
    width, height = max(7.0, 2.5 + 0.2 * len(layers)), 2.5 + 0.17 * depth
    figure = Figure(figsize=(width, 2.5 + height), layout="constrained", dpi=120)
    bars, members = figure.subplots(2, 1, sharex=True, height_ratios=(2.5, height))
    total = _whole(graph)[0]
    for at, layer in enumerate(layers):
        share = _percent(_macs(layer), total)
        _half(bars, at - 0.21, share, decisions(graph, layer.reads))
        _half(bars, at + 0.21, share, decisions(graph, layer.writes))
    for group in graph.groups:
        _members(members, graph, group.index)
    bars.set(ylabel="% of the MACs", xlim=(-0.7, len(layers) - 0.3))
    bars.set_title(
        "left half: decisions that a layer reads; right half: that it writes; grey stays", fontsize=9
    )
    members.set(ylabel="decision", ylim=(depth - 0.4, -0.6))
    members.set_yticks(range(depth))
    members.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90)
    members.set_title("filled: read; hollow: written", fontsize=9)
    for axis in (bars, members):
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.2)
        axis.set_axisbelow(True)
    figure.savefig(path)


def _half(axis: Axes, at: float, share: float, channels: Mapping[int | None, int]) -> None:
    """Half a bar, divided in proportion to each decision's channels."""
    low, unit = 0.0, share / sum(channels.values())
    for index, count in channels.items():
        axis.bar(at, unit * count, 0.42, low, color=_colour(index))
        low += unit * count


def _members(axis: Axes, graph: Graph, index: int) -> None:
    """A line from a decision's first layer to its last, with a mark at each layer that reads or writes it."""
    read = [at - 0.21 for at, one in enumerate(graph.layers) if index in decisions(graph, one.reads)]
    written = [at + 0.21 for at, one in enumerate(graph.layers) if index in decisions(graph, one.writes)]
    colour, every = _colour(index), read + written
    axis.plot([min(every), max(every)], [index, index], color=colour, linewidth=1)
    axis.scatter(written, [index] * len(written), 20, "white", marker="s", edgecolors=[colour], zorder=3)
    axis.scatter(read, [index] * len(read), 20, [colour], marker="o", zorder=3)


def _colour(index: int | None) -> Colour:
    return STAYS if index is None else colorsys.hsv_to_rgb((0.6 + index * GOLDEN) % 1, 0.65, 0.85)


def _whole(graph: Graph) -> tuple[int, int]:
    widths = dense_widths(graph)
    return int(Macs(graph)(widths)), int(Params(graph)(widths))


def _macs(layer: Layer) -> int:
    return macs(layer, layer.c_in, layer.c_out)


def _percent(part: int, total: int) -> float:
    return round(100 * part / total, 4)


def _shape(layer: Layer, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
    return (channels,) if layer.kind == "linear" and size == (1, 1) else (channels, *size)


def _sizes(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _indices(indices: Iterable[int | None]) -> str:
    return " ".join("-" if index is None else str(index) for index in indices)
