"""Makes the probes of one network at any widths, which alone determine its time."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from amc_env.compressors.surgery import cut
from amc_env.graph.structure import Graph
from amc_env.plan import Plan
from experiments.delivery.probes import (
    CudaProbe,
    OnnxProbe,
    Probe,
    TorchProbe,
    random_images,
    whole_onnx,
    whole_torch,
)  # fmt: skip
from experiments.delivery.slicing import SlicedOnnx


class Bench:
    """Makes the probes of one network's cuts in one runtime.

    Args:
        model: the dense network.
        graph: of it.
        runtime: a name in `amc_env.latency.RUNTIMES`.
        device: "cpu", or "cuda" for PyTorch.
        threads: of the runtime.
        batch: images in a pass.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, *, runtime: str, device: str, threads: int, batch: int
    ) -> None:
        self.model, self.graph, self.runtime = model, graph, runtime
        self.threads, self.device = threads, torch.device(device)
        self._images = random_images(batch, graph.shape)
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self._sliced = SlicedOnnx(model, graph) if runtime == "onnxruntime" else None
        if runtime == "torch":
            torch.set_num_threads(threads)

    def layered(self, counts: Sequence[int]) -> Probe:
        """A probe that times the layers of a cut, by counts of kept channels."""
        if self._sliced is not None:
            content = self._sliced.cut(_mask(self.graph, counts))
            return OnnxProbe(content, len(self.graph.layers), self._images, self.threads, self._folder)
        network = small(self.model, self.graph, counts).to(self.device)
        images = self._images.to(self.device)
        if self.device.type == "cuda":
            return CudaProbe(network, self.graph, images)
        return TorchProbe(network, self.graph, images)

    def whole(self, counts: Sequence[int]) -> Probe:
        """A probe that times whole passes of a cut."""
        if self._sliced is not None:
            return whole_onnx(self._sliced.cut(_mask(self.graph, counts)), self._images, self.threads)
        network = small(self.model, self.graph, counts)
        return whole_torch(network, self.graph, self._images, self.device)

    def close(self) -> None:
        """Remove its folder."""
        self._stack.close()


def small(model: nn.Module, graph: Graph, counts: Sequence[int]) -> nn.Module:
    """The network that keeps the first positions of each group; only its widths matter."""
    return cut(model, graph, Plan(graph.hash, tuple(tuple(range(count)) for count in counts)))


def _mask(graph: Graph, counts: Sequence[int]) -> NDArray[np.bool_]:
    return graph.mask([range(count) for count in counts])
