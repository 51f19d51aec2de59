"""Least-squares repair of a layer after some of its inputs are gone, from second moments alone.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, the reconstruction step, which AMC's released code
reuses. There feature rows are stored and regressed anew at each step; since the target is the dense layer's
own output y = W x, it suffices to know E[x xᵀ] once: the best weights on any subset of inputs are one small
solve (compare the layer-wise accumulation of Frantar & Alistarh, "Optimal Brain Compression", 2022). A bias
is part of neither side, and stays as it is.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amc_env.compressors.sampling import draw_positions, listening, patches, refittable
from amc_env.data import DataSet, cache_folder, digest
from amc_env.graph import Graph, Layer
from amc_env.modes import evaluating

FORMAT = 2  # of cache files; another number makes them again
FOLD = 1024  # rows that are gathered before they are multiplied: few rows make slow products
OUTPUTS = 512  # refitted at a time where inputs are many: float64 copies of 10⁸ weights do not fit everywhere
ACTIVATIONS = 2**27  # bytes that one layer's input and output may take in a batch


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what each layer reads in the dense network.

    Attributes:
        grams: by layer name, ``(groups, d, d)`` float64: E[x xᵀ] of the inputs of each channel group, d =
            c_in / groups times the kernel's area, channels first.
        rows: for layers with more inputs than rows, ``(groups, n, d)`` float32: the rows themselves.
        counts: by layer name, how many rows were seen.
        ridge: the least damping of a solve, as a fraction of the mean diagonal; see `damping`.
    """

    grams: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    counts: Mapping[str, int]
    ridge: float = 1e-6

    def to(self, device: torch.device) -> "Moments":
        """The same on a device."""
        grams, rows = (
            {name: value.to(device) for name, value in part.items()} for part in (self.grams, self.rows)
        )
        return Moments(grams, rows, self.counts, self.ridge)

    def solve(self, layer: Layer, block: int, weight: Tensor, columns: Tensor) -> Tensor:
        """A `surgery.Solve`: refitted weights where moments are known, the dense ones where they are not."""
        if layer.name not in self.counts or len(columns) == weight.size(1):
            return weight[:, columns]
        ridge = self.ridge + damping(len(columns), self.counts[layer.name])
        if layer.name in self.grams:
            return refit(weight, self.grams[layer.name][block], columns, ridge)
        return refit_rows(weight, self.rows[layer.name][block], columns, ridge)


def damping(inputs: int, rows: int) -> float:
    """How much to trust the dense weights more than ``rows`` samples of ``inputs`` kept inputs, in [0, 1].

    Least squares adds an error of inputs / rows of what it cannot explain. Measured on held-out images over
    110 layers of 8 networks, the best fraction of the mean diagonal rises from nothing at a tenth to about
    one where inputs equal rows; the cube follows it, and vanishes where rows are many.
    """
    return float(min(1.0, inputs / rows) ** 3)


def refit(weight: Tensor, gram: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """Weights on the kept inputs that best reproduce the dense layer: ``min_V E‖W x - V x_kept‖²``.

    Args:
        weight: ``(out, d)`` dense W, kernels flattened; only the rows that stay.
        gram: ``(d, d)`` float64, E[x xᵀ] of the dense input.
        columns: ``(k,)`` int64, inputs that stay, ascending.
        ridge: damping towards the dense weights, as a fraction of the mean diagonal of the kept block. An
            input that is always zero keeps its dense weights.

    Returns:
        ``(out, k)`` in the dtype of ``weight``.
    """
    gone, kept = _others(columns, weight.size(1)), columns[:, None]
    cross = gram[kept, gone] @ weight[:, gone].double().T  # (k, out): E[x_kept y_goneᵀ]
    change = torch.cholesky_solve(cross, _damped_factor(gram[kept, columns], ridge)).T
    return weight[:, columns] + change.to(weight.dtype)


def _damped_factor(block: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a matrix, which is damped in place and freed with this call, before a solve."""
    block.diagonal().add_(_absolute(ridge, block.diagonal().mean()))
    factor: Tensor = torch.linalg.cholesky(block)
    return factor


def refit_rows(weight: Tensor, rows: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """The weights of `refit` from the rows of x themselves, by a solve of the size of their number.

    Args:
        weight: ``(out, d)`` dense W.
        rows: ``(n, d)`` samples of the dense input.
        columns: ``(k,)`` int64, inputs that stay, ascending.
        ridge: as of `refit`.

    Returns:
        ``(out, k)`` in the dtype of ``weight``.
    """
    gone = _others(columns, weight.size(1))
    kept, lost = rows[:, columns].double(), rows[:, gone].double()
    block = kept @ kept.T  # (n, n)
    block.diagonal().add_(len(rows) * _absolute(ridge, kept.square().mean()))
    factor = torch.linalg.cholesky(block)
    parts = []
    for part in weight.split(OUTPUTS):
        error = lost @ part[:, gone].double().T  # (n, out)
        change = torch.cholesky_solve(error, factor).T @ kept
        parts.append(part[:, columns] + change.to(part.dtype))
    return torch.cat(parts)


def _absolute(ridge: float, mean: Tensor) -> Tensor:
    """A fraction of the mean diagonal; more than nothing where all inputs are dead."""
    return (ridge * mean).clamp_min(torch.finfo(torch.float64).tiny)


def _others(columns: Tensor, count: int) -> Tensor:
    gone = torch.ones(count, dtype=torch.bool)
    gone[columns] = False
    return gone.nonzero().flatten()


class _Sum:
    """Rows of one layer, folded into a Gram matrix as they come unless they are fewer than their columns.

    All memory is taken before the first pass: small pieces that outlive the activations between which they
    lie would keep the allocator from giving these back.
    """

    def __init__(self, layer: Layer, rows: int) -> None:
        groups, columns = layer.groups, _inputs(layer)
        self.fold = columns <= rows
        self.buffer = _pages(groups, min(rows, FOLD) if self.fold else rows, columns)
        self.gram = torch.zeros(groups, columns, columns, dtype=torch.float64) if self.fold else None
        self.count = self.filled = 0

    def add(self, sample: Tensor) -> None:
        """Take ``(groups, rows, d)``."""
        self.count += sample.size(1)
        while sample.size(1):
            part = sample[:, : self.buffer.size(1) - self.filled]
            self.buffer[:, self.filled : self.filled + part.size(1)] = part
            self.filled += part.size(1)
            sample = sample[:, part.size(1) :]
            if self.fold and self.filled == self.buffer.size(1):
                self.flush()

    def flush(self) -> None:
        """Multiply what has been gathered, in float64: in float32, a singular matrix may lose its sign."""
        assert self.gram is not None
        x = self.buffer[:, : self.filled].double()
        self.gram.baddbmm_(x.transpose(1, 2), x)
        self.filled = 0


def _pages(*shape: int) -> Tensor:
    """Float32 zeros on pages of their own: the allocator would keep what lay between things that stay."""
    return torch.frombuffer(mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


def collect(
    model: nn.Module,
    graph: Graph,
    data: DataSet,
    *,
    images: int,
    points: int,
    seed: int,
    batch_size: int | None = None,
) -> Moments:
    """Moments of a dense network over sampled positions of the calibration split.

    Args:
        model: the dense network.
        graph: of it.
        data: only its calibration split is read.
        images: how many of its images; all where there are fewer.
        points: positions sampled in each image and layer.
        seed: draws the positions.
        batch_size: images in one pass, which changes nothing but time and memory; None for what fits.

    Raises:
        ValueError: for images of another shape than the network was traced with.
        ArithmeticError: when a layer's input is not finite.
    """
    if data.shape != graph.shape:
        raise ValueError(
            f"images are {data.shape}, the network was traced with {graph.shape}: trace it again"
        )
    layers = refittable(graph)
    images = min(images, len(data["calibration"]))
    generator = torch.Generator().manual_seed(seed)
    positions = {layer.name: draw_positions(layer, images, points, generator) for layer in layers}
    sums = {layer.name: _Sum(layer, positions[layer.name].numel()) for layer in layers}
    batch_size = batch_size or _batch_size(graph)
    first, calls = 0, dict.fromkeys(sums, 0)

    def hear(layer: Layer, module: nn.Module, x: Tensor) -> None:
        at = positions[layer.name][calls[layer.name], first : first + len(x)]
        calls[layer.name] += 1
        sample = patches(module, layer, x, at)
        if not bool(sample.isfinite().all()):
            raise ArithmeticError(
                f"the input of layer {layer.name!r} is not finite: check the weights of the checkpoint"
            )
        sums[layer.name].add(sample)

    with evaluating(model), listening(model, layers, hear):
        for batch, _ in data.batches("calibration", batch_size, images):
            model(batch)
            first += len(batch)
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
    return layer.c_in // layer.groups * layer.taps


def _batch_size(graph: Graph) -> int:
    """As many images as keep the widest layer's activations within `ACTIVATIONS`, from 1 to 100."""
    floats = max(
        layer.c_in * math.prod(layer.in_size) + layer.c_out * math.prod(layer.out_size)
        for layer in graph.layers
    )
    return max(1, min(100, ACTIVATIONS // (4 * floats)))


def collect_cached(
    model: nn.Module, graph: Graph, data: DataSet, *, images: int, points: int, seed: int, ridge: float = 1e-6
) -> Moments:
    """`collect`, kept on disk under the hash of weights, images and sampling, and read from there again."""
    key = digest([value.cpu() for value in model.state_dict().values()])[:16]
    told = digest([torch.frombuffer(bytearray(repr(model).encode()), dtype=torch.uint8)])[:8]
    sample = f"{data.fingerprint('calibration', images)}-{images}-{points}-{seed}"
    path = cache_folder() / "moments" / f"{FORMAT}-{graph.hash}-{key}-{told}-{sample}.safetensors"
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError):  # not made yet, or torn by a full disk: it is made again
        moments = collect(model, graph, data, images=images, points=points, seed=seed)
        stored = _pack(moments)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        save_file(stored, partial)
        os.replace(partial, path)
    return _unpack(stored, ridge)


def _pack(moments: Moments) -> dict[str, Tensor]:
    counts = {f"count/{name}": torch.tensor(count) for name, count in moments.counts.items()}
    grams = {f"gram/{name}": gram for name, gram in moments.grams.items()}
    return counts | grams | {f"rows/{name}": rows for name, rows in moments.rows.items()}


def _unpack(stored: Mapping[str, Tensor], ridge: float) -> Moments:
    parts: dict[str, dict[str, Tensor]] = {"gram": {}, "rows": {}, "count": {}}
    for key, value in stored.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value
    counts = {name: int(count) for name, count in parts["count"].items()}
    return Moments(parts["gram"], parts["rows"], counts, ridge)
