"""The reference: one episode by the procedure of AMC's released code, reimplemented.

*Source*: the released code of He et al., ECCV 2018, ``env/channel_pruning_env.py``. What each layer reads
and writes at sampled points of the calibration images is stored as rows once. For every plan the network is
reset, the channels are ranked by magnitude, each layer that loses inputs is regressed on what it keeps of
the rows by scikit-learn's `LinearRegression`, and the full-size network, with zeros where inputs are gone, is
evaluated in batches of 50.

So that both sides solve the same problem, four things differ from the released code: kernels of any size are
regressed, not only 1x1; the regression has no bias; channels that must be removed together are ranked
together; points are drawn for each image. The images lie in memory, normalised.

On a GPU only the network runs there; scikit-learn runs on the processor, as in the released code.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.channels import magnitude
from amc_env.data.splits import DataSet
from amc_env.graph.structure import Graph, Layer
from amc_env.repair.sampling import Listening, Seen, draw_positions, refittable

BATCH = 50  # images in a forward pass

Rows = NDArray[np.float32]


class BenchmarkError(ValueError):
    """Two procedures that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of both procedures."""

    data: str = "fashion_mnist"
    target: float = 0.5  # of the MACs
    calibration_images: int = 2000
    points: int = 10  # in each of them, as in the released code
    reward_images: int = 3000  # likewise
    plans: int = 4  # random ones, played on both sides
    repeats: int = 3  # of each
    threads: int = 1
    device: str = "cpu"  # of networks and solves; the released procedure's regressions are the processor's
    seed: int = 0


@dataclass(frozen=True)
class Played:
    """One episode: top1 in [0, 1], the kept positions of each group, and seconds by phase."""

    top1: float
    kept: tuple[tuple[int, ...], ...]
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of the whole episode."""
        return sum(self.seconds.values())


class Reference:
    """Evaluates plans by the released code's procedure.

    Args:
        model: a trained network; it is copied, not changed.
        data: its images.
        graph: of the network.
        settings: images, points and seed are read.

    Attributes:
        features: by layer name, its inputs ``(n, d)`` and its outputs ``(n, c_out)`` without the bias.
    """

    def __init__(self, model: nn.Module, data: DataSet, graph: Graph, settings: Settings) -> None:
        self.graph = graph
        device = torch.device(settings.device)
        self.network = copy.deepcopy(model).to(device).to(memory_format=torch.contiguous_format)
        self._dense = {name: value.clone() for name, value in self.network.state_dict().items()}
        self._batches = [
            (batch.contiguous(memory_format=torch.contiguous_format).to(device), labels.to(device))
            for batch, labels in data.batches("reward", BATCH, settings.reward_images)
        ]
        self.features = store(self.network, data, graph, settings)

    def play(self, counts: Sequence[int]) -> Played:
        """One episode, given the number of kept positions of each group."""
        clock = [time.perf_counter()]
        self.network.load_state_dict(self._dense)
        kept = tuple(
            tuple(
                sorted(
                    np.argsort(-magnitude(self.network, self.graph, group), kind="stable")[:count].tolist()
                )
            )
            for group, count in zip(self.graph.groups, counts, strict=True)
        )
        clock.append(time.perf_counter())
        mask = self.graph.mask(kept)
        for name in self.features:
            self._regress(self.graph.layer(name), mask)
        clock.append(time.perf_counter())
        top1 = self._accuracy()
        clock.append(time.perf_counter())
        seconds = dict(zip(("choose", "solve", "forward"), np.diff(clock).tolist(), strict=True))
        return Played(top1, kept, seconds)

    def _regress(self, layer: Layer, mask: NDArray[np.bool_]) -> None:
        columns = mask[layer.reads].repeat(layer.taps)
        if columns.all():
            return
        inputs, outputs = self.features[layer.name]
        fitted = LinearRegression(fit_intercept=False).fit(inputs[:, columns], outputs)
        weight = np.zeros((layer.c_out, len(columns)), np.float32)
        weight[:, columns] = fitted.coef_
        with torch.no_grad():
            parameter = self.network.get_parameter(f"{layer.name}.weight")
            parameter.copy_(torch.from_numpy(weight).view_as(parameter))

    def _accuracy(self) -> float:
        correct = 0
        with torch.no_grad():
            for batch, labels in self._batches:
                correct += int((self.network(batch).argmax(1) == labels).sum())
        return correct / sum(len(labels) for _, labels in self._batches)


def store(
    network: nn.Module, data: DataSet, graph: Graph, settings: Settings
) -> dict[str, tuple[Rows, Rows]]:
    """Store the rows of every layer that can lose inputs, at the points that `amc_env` draws for this seed.

    Raises:
        BenchmarkError: for a grouped convolution, which the released code does not regress.
    """
    layers, count = refittable(graph), min(settings.calibration_images, len(data["calibration"]))
    if grouped := [layer.name for layer in layers if layer.groups > 1 or layer.calls > 1]:
        raise BenchmarkError(f"the yardstick has no grouped or repeated layers; here are {grouped}")
    generator = torch.Generator().manual_seed(settings.seed)
    points = {layer.name: draw_positions(layer, count, settings.points, generator)[0] for layer in layers}
    features = {}
    for layer in layers:
        rows = points[layer.name].numel()
        inputs = np.empty((rows, layer.c_in * layer.taps), np.float32)
        features[layer.name] = inputs, np.empty((rows, layer.c_out), np.float32)
    first = 0

    def hear(layer: Layer, module: nn.Module, seen: Seen) -> None:
        x = seen.x
        at = points[layer.name][first : first + len(x)]
        part = slice(first * at.size(1), (first + len(x)) * at.size(1))
        sample = _sample(module, x, at.to(x.device))
        inputs, outputs = features[layer.name]
        inputs[part] = sample.cpu()
        outputs[part] = (sample @ module.get_parameter("weight").flatten(1).T).cpu()

    with torch.no_grad(), Listening(network, layers, hear):
        for batch, _ in data.batches("calibration", BATCH, count):
            network(batch.contiguous(memory_format=torch.contiguous_format).to(settings.device))
            first += len(batch)
    return features


def _sample(module: nn.Module, x: Tensor, at: Tensor) -> Tensor:
    """``(N * points, d)``, a layer's inputs at output positions ``(N, points)`` of its images."""
    if isinstance(module, nn.Linear):
        return x
    assert isinstance(module, nn.Conv2d)
    assert not isinstance(module.padding, str)
    seen = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return seen.gather(2, at[:, None].expand(-1, seen.size(1), -1)).transpose(1, 2).flatten(0, 1)
