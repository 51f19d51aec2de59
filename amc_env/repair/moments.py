"""Repairs layers after inputs are removed, from second moments of their dense inputs.

The moments of a network are computed once, at sampled points of the calibration images, and cached on disk;
`amc_env.repair.least_squares` solves from them alone.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap

import torch
from torch import Tensor, nn

from amc_env.compressors.surgery import Problem
from amc_env.data.own import OwnData, count
from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.cache import cached
from amc_env.repair.least_squares import damping, refit, refit_rows, refit_together
from amc_env.repair.sampling import Listening, Seen, draw_positions, patches, weighed

FORMAT = 7  # of cache files; another number makes them again
FOLD = 1024  # rows that are gathered before they are multiplied: few rows make slow products
TOGETHER = 2**26  # numbers in the matrices that a GPU solves at once
LARGEST = 8192  # inputs of a layer whose Gram matrix is made from rows
ACTIVATIONS = 2**27  # bytes that one layer's input and output may take in a batch
RIDGE = 1e-6  # the least damping of a solve, as a fraction of the mean diagonal


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of each layer's inputs in the dense network.

    Attributes:
        grams: by layer name, ``(groups, d, d)`` float64: E[x xᵀ] of the inputs of each channel group, d =
            c_in / groups times the kernel's area, channels first.
        rows: for layers with more inputs than rows, ``(groups, n, d)`` float32: the rows themselves.
        counts: by layer name, the number of rows.
    """

    grams: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    counts: Mapping[str, int]

    def to(self, device: torch.device) -> "Moments":
        """A copy on a device."""
        grams, rows = (
            {name: value.to(device) for name, value in part.items()} for part in (self.grams, self.rows)
        )
        return Moments(grams, rows, self.counts)

    def solve(self, problems: Iterable[Problem]) -> Iterator[Tensor]:
        """A `surgery.Solve`: refitted weights if moments are known, else the dense ones.

        On a GPU, layers of one shape are solved at once, see `refit_together`.
        """
        if self.on_cpu:
            return map(self._solve, problems)
        return iter(self._solve_together(list(problems)))

    @property
    def on_cpu(self) -> bool:
        """Whether systems are solved on the processor."""
        return all(value.device.type == "cpu" for value in (*self.grams.values(), *self.rows.values()))

    def _solve(self, problem: Problem) -> Tensor:
        layer, block, weight, columns = problem
        if layer.name not in self.counts or len(columns) == weight.size(1):
            return weight[:, columns]
        ridge = self.damping(layer.name, len(columns))
        if layer.name in self.grams:
            return refit(weight, self.grams[layer.name][block], columns, ridge)
        return refit_rows(weight, self.rows[layer.name][block], columns, ridge)

    def _solve_together(self, problems: Sequence[Problem]) -> list[Tensor]:
        alike: dict[Hashable, list[int]] = {}  # indices of problems of one shape, and each other one alone
        for index, (layer, _, weight, columns) in enumerate(problems):
            refitted = layer.name in self.grams and len(columns) < weight.size(1)
            alike.setdefault(weight.shape if refitted else index, []).append(index)
        found: dict[int, Tensor] = {}
        for indices in alike.values():
            size = max(1, TOGETHER // problems[indices[0]].weight.size(1) ** 2)
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                found |= dict(zip(part, self._refit([problems[index] for index in part]), strict=True))
        return [found[index] for index in range(len(problems))]

    def _refit(self, problems: Sequence[Problem]) -> list[Tensor]:
        """Refit one problem, or several of one shape."""
        if len(problems) == 1:
            return [self._solve(problems[0])]
        return refit_together(
            [problem.weight for problem in problems],
            [self.grams[problem.layer.name][problem.block] for problem in problems],
            [problem.columns for problem in problems],
            [self.damping(problem.layer.name, len(problem.columns)) for problem in problems],
        )

    def damping(self, name: str, inputs: int) -> float:
        """The damping of a solve on so many inputs of a layer, as a fraction of the mean diagonal."""
        return RIDGE + damping(inputs, self.counts[name])

    def gram(self, name: str) -> Tensor:
        """``(groups, d, d)`` float64: E[x xᵀ] of a layer's inputs, from its rows if those are stored."""
        if name in self.grams:
            return self.grams[name]
        rows = self.rows[name].double()
        return rows.mT @ rows / rows.size(1)

    def damped(self, name: str, block: int) -> Tensor | None:
        """``(d, d)`` float64: E[x xᵀ] of a layer's channel group, with the damping of a solve on all inputs.

        None if it is unknown, or has more than `LARGEST` inputs and fewer rows.
        """
        if name in self.grams:
            gram = self.grams[name][block].clone()
        elif name in self.rows and self.rows[name].size(2) <= LARGEST:
            rows = self.rows[name][block].double()
            gram = rows.T @ rows / len(rows)
        else:
            return None
        ridge = self.damping(name, len(gram))
        gram.diagonal().add_((ridge * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny))
        return gram


class _Sum:
    """Rows of one layer, added up in a Gram matrix unless there are fewer rows than columns.

    All memory is allocated before the first pass: long-lived pieces between activations would keep the
    allocator from releasing these.
    """

    def __init__(self, layer: Layer, rows: int) -> None:
        groups, columns = layer.groups, _inputs(layer)
        self.fold = columns <= rows
        self.buffer = _pages(groups, min(rows, FOLD) if self.fold else rows, columns)
        self.gram = torch.zeros(groups, columns, columns, dtype=torch.float64) if self.fold else None
        self.count = self.filled = 0

    def add(self, sample: Tensor) -> None:
        """Add rows ``(groups, rows, d)``."""
        self.count += sample.size(1)
        while sample.size(1):
            part = sample[:, : self.buffer.size(1) - self.filled]
            self.buffer[:, self.filled : self.filled + part.size(1)] = part
            self.filled += part.size(1)
            sample = sample[:, part.size(1) :]
            if self.fold and self.filled == self.buffer.size(1):
                self.flush()

    def flush(self) -> None:
        """Add the gathered rows in float64; in float32 a singular matrix may become indefinite."""
        assert self.gram is not None
        x = self.buffer[:, : self.filled].double()
        self.gram.baddbmm_(x.transpose(1, 2), x)
        self.filled = 0


def _pages(*shape: int) -> Tensor:
    """Float32 zeros on memory pages of their own, which are released as a whole."""
    return torch.frombuffer(mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


def collect(
    model: nn.Module,
    graph: Graph,
    data: DataSet | OwnData,
    *,
    images: int,
    points: int,
    seed: int,
    every: bool = False,
    batch_size: int | None = None,
) -> Moments:
    """Moments of a dense network over sampled positions of the calibration split.

    Args:
        model: the dense network.
        graph: of it.
        data: only its calibration split is read.
        images: number of its images; all if there are fewer.
        points: positions sampled in each image and layer.
        seed: draws the positions.
        every: also of layers whose inputs all stay, such as the first: single weights of theirs may go.
        batch_size: images in one pass, which only affects time and memory; None for a fitting size.

    Raises:
        ValueError: for images of another shape than the network was traced with.
        ArithmeticError: when a layer's input is not finite.
    """
    if data.shape != graph.shape:
        raise ValueError(
            f"images are {data.shape}, the network was traced with {graph.shape}: trace it again"
        )
    layers = [layer for layer in graph.layers if layer.kind != "depthwise"] if every else weighed(graph)
    images = len(data["calibration"].head(images))
    generator = torch.Generator().manual_seed(seed)
    positions = {layer.name: draw_positions(layer, images, points, generator) for layer in layers}
    sums = {layer.name: _Sum(layer, positions[layer.name].numel()) for layer in layers}
    batch_size = batch_size or _batch_size(graph)
    first, size, calls = 0, 0, dict.fromkeys(sums, 0)

    def hear(layer: Layer, module: nn.Module, seen: Seen) -> None:
        at = positions[layer.name][calls[layer.name], first : first + size]
        calls[layer.name] += 1
        sample = patches(module, layer, seen, at)
        if not bool(sample.isfinite().all()):
            raise ArithmeticError(
                f"the input of layer {layer.name!r} is not finite: check the weights of the checkpoint"
            )
        sums[layer.name].add(sample)

    with evaluating(model), Listening(model, layers, hear):
        for batch, _ in data.batches("calibration", batch_size, images):
            size = count(batch)
            model(batch)
            first += size
            calls = dict.fromkeys(sums, 0)
    return _moments(sums)


def _moments(sums: Mapping[str, _Sum]) -> Moments:
    grams, rows = {}, {}
    for name, total in sums.items():
        if total.gram is None:
            rows[name] = total.buffer[:, : total.filled]
        else:
            total.flush()
            grams[name] = total.gram.div_(total.count)
    return Moments(grams, rows, {name: total.count for name, total in sums.items()})


def _inputs(layer: Layer) -> int:
    """Columns of one channel group's least-squares problem."""
    return layer.c_in // layer.groups * (1 if layer.kind == "transposed" else layer.taps)


def _batch_size(graph: Graph) -> int:
    """The batch size, from 1 to 100, that keeps the widest layer's activations within `ACTIVATIONS`."""
    return max(1, min(100, ACTIVATIONS // (4 * graph.widest)))


def collect_cached(
    model: nn.Module,
    graph: Graph,
    data: DataSet | OwnData,
    *,
    images: int,
    points: int,
    seed: int,
    every: bool = False,
) -> Moments:
    """`collect`, cached on disk under the hash of weights, images and sampling."""
    sampling = {"images": images, "points": points, "seed": seed}

    def make() -> dict[str, Tensor]:
        found = collect(model, graph, data, images=images, points=points, seed=seed, every=every)
        return _pack(found)

    kind = f"moments-{FORMAT}" + ("-every" if every else "")
    return _unpack(cached(kind, make, model, graph, data, **sampling))


def _pack(moments: Moments) -> dict[str, Tensor]:
    counts = {f"count/{name}": torch.tensor(count) for name, count in moments.counts.items()}
    grams = {f"gram/{name}": gram for name, gram in moments.grams.items()}
    return counts | grams | {f"rows/{name}": rows for name, rows in moments.rows.items()}


def _unpack(stored: Mapping[str, Tensor]) -> Moments:
    parts: dict[str, dict[str, Tensor]] = {"gram": {}, "rows": {}, "count": {}}
    for key, value in stored.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value
    counts = {name: int(count) for name, count in parts["count"].items()}
    return Moments(parts["gram"], parts["rows"], counts)
