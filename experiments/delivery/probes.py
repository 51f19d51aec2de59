"""Runs a network of a latency table and times each layer, and whole passes.

A probe runs and stores one pass a call. `OnnxProbe` reads onnxruntime's own profile, so a layer is timed
inside its network, with operations fused into it and in the memory format that the runtime chose.
`TorchProbe` marks the time where each layer begins; `CudaProbe` does so with events in a captured graph.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import onnxruntime
import torch
from torch import Tensor, nn

from amc_env.conditions import LatencyError
from amc_env.execution import evaluating, lay_out
from amc_env.graph.structure import Graph
from experiments.delivery.runtimes import session_options, torch_forward

VISIT = 3  # passes of a network at its turn that count, after one that warms the caches


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: nanoseconds of each layer, in the graph's order, and of the whole."""

    layers: Sequence[int]
    whole: int


class Probe(Protocol):
    """Runs one network."""

    resolution: int
    """Of its clock, in nanoseconds."""

    def run(self) -> None:
        """One pass."""

    def passes(self) -> list[Pass]:
        """All passes so far; nothing may be run after that."""


def onnx_session(content: bytes, threads: int, profile: Path | None = None) -> Any:
    """A session of onnxruntime on the processor, with the options of delivered networks.

    Args:
        content: of an ONNX file.
        threads: of the runtime.
        profile: prefix of the file of its profile; None for no profile.

    Raises:
        LatencyError: if the network cannot run, for example because a constant holds a number of channels.
            Some networks fail in their first pass only: run that in `runnable`.
    """
    options = session_options(threads)
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    with runnable():
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def runnable() -> Iterator[None]:
    """Turn a failure of onnxruntime into a `LatencyError`."""
    try:
        yield
    except Exception as error:  # of classes that onnxruntime makes in C++, children of Exception alone
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise LatencyError(
            f"onnxruntime cannot run a cut of the network: {error}; give runtime=torch"
        ) from error


class OnnxProbe:
    """Times layers from onnxruntime's profile.

    Args:
        content: of an ONNX file of `SlicedOnnx`.
        layers: their number.
        images: ``(N, C, H, W)``.
        threads: of the runtime.
        folder: for the profile.
    """

    resolution = 1000

    def __init__(self, content: bytes, layers: int, images: Tensor, threads: int, folder: Path) -> None:
        self._layers, self._images = layers, {"images": images.numpy()}
        self._session = onnx_session(content, threads, folder / "profile")

    def run(self) -> None:
        """One pass."""
        with runnable():
            self._session.run(None, self._images)

    def passes(self) -> list[Pass]:
        """All passes so far."""
        file = Path(self._session.end_profiling())
        events = json.loads(file.read_text())
        file.unlink()
        return read_profile(events, self._layers)


def read_profile(events: Sequence[Mapping[str, Any]], layers: int) -> list[Pass]:
    """The passes of a profile of onnxruntime, whose nodes are named by `SlicedOnnx`.

    Nodes that the runtime adds, such as a change of memory format, belong to the layer before them.
    """
    found, spent, current = [], [0] * layers, 0
    for event in events:
        name = str(event.get("name", ""))
        if name.endswith("_kernel_time"):
            if tag := re.search(r"\blayer(\d+)\.", name):  # "fused layer2.6" where an activation is fused
                current = int(tag[1])
            spent[current] += 1000 * int(event["dur"])
        elif name == "model_run":
            found.append(Pass(spent, sum(spent)))  # without what the profile itself takes between nodes
            spent, current = [0] * layers, 0
    return found


class TorchProbe:
    """Times a layer in PyTorch from the call of its module to the call of the next layer's.

    Args:
        network: in evaluation mode; it is laid out as by `runtimes.torch_forward`.
        graph: of the dense network, whose layers have the same names.
        images: ``(N, C, H, W)``.
        clock: nanoseconds.

    Raises:
        LatencyError: in the first pass, for a forward that runs a layer without calling its module.
    """

    resolution = 1

    def __init__(
        self,
        network: nn.Module,
        graph: Graph,
        images: Tensor,
        clock: Callable[[], Any] = time.perf_counter_ns,
    ) -> None:
        self._network, layout = network, lay_out(network, images[:2])
        self._images = images.contiguous(memory_format=layout)
        self._names, self._clock = [layer.name for layer in graph.layers], clock
        self._marks: list[tuple[int, Any]] = []
        self._passes: list[Pass] = []
        for index, layer in enumerate(graph.layers):
            network.get_submodule(layer.name).register_forward_pre_hook(partial(self._begin, index))

    def _begin(self, index: int, *_: object) -> None:
        self._marks.append((index, self._clock()))

    def forward(self) -> list[tuple[int, Any]]:
        """Run one pass; returns the times at which it and its layers start, and its end."""
        self._marks = [(0, self._clock())]
        with evaluating(self._network):
            self._network(self._images)
        marks = [*self._marks, (-1, self._clock())]
        called = {index for index, _ in self._marks[1:]}
        if missing := [name for index, name in enumerate(self._names) if index not in called]:
            raise LatencyError(
                f"the forward runs {', '.join(missing)} without calling the module, so it cannot be timed: "
                "call the module, not its forward or its weight"
            )
        return marks

    def run(self) -> None:
        """One pass."""
        self._passes.append(between(self.forward(), len(self._names), lambda one, other: int(other - one)))

    def passes(self) -> list[Pass]:
        """All passes so far."""
        return self._passes


class CudaProbe:
    """Times layers on a graphics card by events in a captured graph, which is replayed.

    Args:
        network: on the card.
        graph: of the dense network.
        images: on the card.
        cuda: PyTorch's module of that name.
    """

    resolution = 1

    def __init__(self, network: nn.Module, graph: Graph, images: Tensor, cuda: Any = torch.cuda) -> None:
        def event() -> Any:
            mark = cuda.Event(enable_timing=True, external=True)  # one that a graph records as it is replayed
            mark.record()
            return mark

        probe = TorchProbe(network, graph, images, event)
        self._cuda, self._layers, self._passes = cuda, len(graph.layers), list[Pass]()
        with cuda.stream(cuda.Stream()):  # a first pass may allocate, which a captured one may not
            probe.forward()
        cuda.synchronize()
        self._graph = cuda.CUDAGraph()
        with cuda.graph(self._graph):
            self._marks = probe.forward()

    def run(self) -> None:
        """One pass."""
        self._graph.replay()
        self._cuda.synchronize()
        self._passes.append(between(self._marks, self._layers, _elapsed))

    def passes(self) -> list[Pass]:
        """All passes so far."""
        return self._passes


def _elapsed(one: Any, other: Any) -> int:
    return round(1e6 * float(one.elapsed_time(other)))


def between(marks: Sequence[tuple[int, Any]], layers: int, span: Callable[[Any, Any], int]) -> Pass:
    """The times of a pass from marks, each at the start of a layer.

    Args:
        marks: the first at the start of the pass, the last at its end.
        layers: their number.
        span: nanoseconds from one mark to a later one.
    """
    spent = [0] * layers
    for (index, start), (_, end) in pairwise(marks):
        spent[index] += span(start, end)
    return Pass(spent, span(marks[0][1], marks[-1][1]))


class WholeProbe:
    """Whole passes of anything that can be called.

    Args:
        forward: one pass.
        clock: nanoseconds.
    """

    resolution = 1

    def __init__(
        self, forward: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._forward, self._clock, self._passes = forward, clock, list[Pass]()

    def run(self) -> None:
        """One pass."""
        start = self._clock()
        self._forward()
        self._passes.append(Pass((), self._clock() - start))

    def passes(self) -> list[Pass]:
        """All passes so far."""
        return self._passes


def random_images(batch: int, shape: tuple[int, int, int]) -> Tensor:
    """``(batch, C, H, W)`` float32 images for timing, always the same."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def whole_onnx(content: bytes, images: Tensor, threads: int) -> Probe:
    """Whole passes of an ONNX file."""
    session = onnx_session(content, threads)
    forward = partial(session.run, None, {session.get_inputs()[0].name: images.numpy()})
    with runnable():
        forward()
    return WholeProbe(forward)


def whole_torch(network: nn.Module, graph: Graph, images: Tensor, device: torch.device) -> Probe:
    """Whole passes in PyTorch: a captured graph on a card, else `runtimes.torch_forward`."""
    if device.type == "cuda":
        return CudaProbe(network.to(device), graph, images.to(device))
    return WholeProbe(partial(torch_forward(network), images))
