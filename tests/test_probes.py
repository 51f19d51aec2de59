"""Times of layers in one pass: from a profile, from marks, and from events in a captured graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import NETS, pixels, ready

from amc_env import zoo
from amc_env.conditions import LatencyError
from amc_env.graph.trace import trace
from experiments.delivery.bench import Bench, small
from experiments.delivery.probes import (
    CudaProbe,
    OnnxProbe,
    Pass,
    TorchProbe,
    WholeProbe,
    between,
    onnx_session,
    read_profile,
    whole_onnx,
)
from experiments.delivery.slicing import SlicedOnnx


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return zoo.build("digits_cnn", classes=10, in_channels=1).eval()


@pytest.fixture(scope="module")
def graph(model):
    return trace(model, (1, 8, 8))


def event(name: str, us: int) -> dict[str, Any]:
    return {"name": f"{name}_kernel_time", "dur": us}


def test_a_profile_is_cut_into_passes_and_layers() -> None:
    """What the runtime adds belongs to the layer before it; loading is no pass."""
    events = [
        {"name": "session_initialization", "dur": 900},
        event("layer0.0", 3), event("reorder_token_7", 2), event("layer1.4", 5), event("layer0.9", 1),
        {"name": "model_run", "dur": 20},
        event("layer0.0", 4), event("layer1.4", 6), {"name": "model_run", "dur": 30},
    ]  # fmt: skip
    assert read_profile(events, 2) == [Pass([6000, 5000], 11000), Pass([4000, 6000], 10000)]


def test_a_layer_with_a_fused_activation_keeps_its_time() -> None:
    events = [event("layer0.0", 3), event("fused layer1.4", 5), {"name": "model_run", "dur": 20}]
    assert read_profile(events, 2) == [Pass([3000, 5000], 8000)]


def test_linear_layers_before_an_activation_have_times(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512),
        torch.nn.ReLU(), torch.nn.Linear(512, 3),
    ).eval()  # fmt: skip
    graph = trace(network, (4, 8, 8))
    content = SlicedOnnx(network, graph).cut(graph.mask([range(len(each)) for each in graph.groups]))
    probe = OnnxProbe(content, 3, torch.zeros(64, 4, 8, 8), 1, tmp_path)
    for _ in range(3):
        probe.run()
    first, second, _ = max(probe.passes(), key=lambda each: each.layers[0]).layers
    assert first > 0
    assert second > 0


class Unheard(torch.nn.Module):
    """A forward that runs its second layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second.forward(self.first(x)).flatten(1)


def test_a_layer_that_is_never_called_is_told() -> None:
    network = Unheard().eval()
    probe = TorchProbe(network, trace(network, (1, 8, 8)), torch.zeros(1, 1, 8, 8))
    with pytest.raises(LatencyError, match="runs second without calling the module"):
        probe.run()


def test_a_layer_lasts_until_the_next_begins() -> None:
    marks = [(0, 10), (0, 12), (1, 15), (0, 21), (-1, 30)]
    assert between(marks, 2, lambda one, other: other - one) == Pass([2 + 3 + 9, 6], 20)


def test_torch_is_marked_where_each_layer_is_called(model, graph) -> None:
    ticks = count(0, 7)
    probe = TorchProbe(small(model, graph, [len(g) for g in graph.groups]), graph, torch.zeros(1, 1, 8, 8),
                       lambda: next(ticks))  # fmt: skip
    probe.run()
    probe.run()
    first, second = probe.passes()
    layers = len(graph.layers)
    assert first.layers == second.layers == [14, *[7] * (layers - 1)]  # the start of all is a mark of its own
    assert first.whole == 7 * (layers + 1)


def test_a_network_with_a_view_is_timed_in_the_default_format(model) -> None:
    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4 * 36, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).view(x.size(0), -1))

    views = Views().eval()
    probe = TorchProbe(views, trace(views, (1, 8, 8)), torch.zeros(2, 1, 8, 8))
    probe.run()
    assert len(probe.passes()[0].layers) == 2


class Cuda:
    """In the place of `torch.cuda`: a graph that remembers its events, and sets their times when replayed."""

    def __init__(self) -> None:
        self.now, self.captured, self.events = 0.0, [], []
        self.capturing = self.synchronized = False
        cuda = self

        class Event:
            def __init__(self, *, enable_timing: bool, external: bool) -> None:
                assert enable_timing
                assert external  # else a replay does not record it

            def record(self) -> None:
                if cuda.capturing:
                    cuda.captured.append(self)

            def elapsed_time(self, other: Any) -> float:
                assert cuda.synchronized
                return float(other.at - self.at)

        class CUDAGraph:
            def replay(self) -> None:
                cuda.synchronized = False
                for event in cuda.captured:
                    cuda.now += 0.5  # milliseconds
                    event.at = cuda.now

        self.Event, self.CUDAGraph = Event, CUDAGraph

    def Stream(self) -> None:
        """The default one."""

    @contextmanager
    def stream(self, _: None) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, _: Any) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False

    def synchronize(self) -> None:
        self.synchronized = True


def test_a_card_is_timed_by_events_of_a_captured_graph(model, graph) -> None:
    cuda = Cuda()
    network = small(model, graph, [len(g) for g in graph.groups])
    probe = CudaProbe(network, graph, torch.zeros(1, 1, 8, 8), cuda)
    assert cuda.now == 0.0  # nothing is replayed yet
    for _ in range(3):
        probe.run()
    layers = len(graph.layers)
    expected = Pass([1_000_000, *[500_000] * (layers - 1)], 500_000 * (layers + 1))
    assert probe.passes() == 3 * [expected]


def test_whole_passes_are_timed_one_by_one() -> None:
    times, calls = iter([0, 5, 100, 107]), []
    probe = WholeProbe(lambda: calls.append(1), lambda: next(times))
    probe.run()
    probe.run()
    assert probe.passes() == [Pass((), 5), Pass((), 7)]
    assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain", "residual", "depthwise", "grouped"])
def test_a_sliced_file_has_the_shapes_of_the_cut_network_and_runs(name: str) -> None:
    network = ready(NETS[name]())
    graph = trace(network, (2, 8, 8))
    counts = [max(1, len(group) // 2) for group in graph.groups]
    content = SlicedOnnx(network, graph).cut(graph.mask([range(each) for each in counts]))
    session = onnxruntime.InferenceSession(content)
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels(3).numpy()})
    assert found.shape == (3, 3)
    sizes = [tuple(each.shape) for each in small(network, graph, counts).state_dict().values()]
    stored = [tuple(each.dims) for each in onnx.load_from_string(content).graph.initializer]
    assert sorted(each for each in stored if len(each) > 1) == sorted(each for each in sizes if len(each) > 1)


def test_the_profile_of_a_cut_has_a_time_for_every_layer(model, graph, tmp_path: Path) -> None:
    counts = [len(group) // 2 for group in graph.groups]
    content = SlicedOnnx(model, graph).cut(graph.mask([range(each) for each in counts]))
    probe = OnnxProbe(content, len(graph.layers), torch.zeros(2, 1, 8, 8), 1, tmp_path)
    probe.run()
    probe.run()
    passes = probe.passes()
    assert len(passes) == 2
    assert all(len(each.layers) == len(graph.layers) and sum(each.layers) == each.whole for each in passes)
    assert not list(tmp_path.iterdir())  # the profile is deleted


def test_a_vector_over_channels_and_columns_is_cut_along_channels() -> None:
    class Placed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 3, 6)
            self.place = torch.nn.Parameter(torch.rand(1, 8, 1, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x) + self.place).flatten(1)

    network = Placed().eval()
    graph = trace(network, (1, 8, 8))
    content = SlicedOnnx(network, graph).cut(graph.mask([[0, 1, 2]]))
    (found,) = onnxruntime.InferenceSession(content).run(None, {"images": np.zeros((1, 1, 8, 8), "f4")})
    assert found.shape == (1, 3)


def test_a_network_that_fails_in_its_first_pass_says_what_to_do(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.PReLU(8), torch.nn.Conv2d(8, 3, 6), torch.nn.Flatten()
    ).eval()
    graph = trace(network, (1, 8, 8))
    content = SlicedOnnx(network, graph).cut(graph.mask([[0, 1, 2]]))
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(LatencyError, match="give runtime=torch"):
        whole_onnx(content, images, 1)
    with pytest.raises(LatencyError, match="give runtime=torch"):
        OnnxProbe(content, 2, images, 1, tmp_path).run()


def test_a_file_that_does_not_run_says_what_to_do() -> None:
    with pytest.raises(LatencyError, match="give runtime=torch"):
        onnx_session(b"no network", 1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_bench_runs_any_widths(runtime: str, model, graph) -> None:
    bench = Bench(model, graph, runtime=runtime, device="cpu", threads=1, batch=2)
    try:
        for counts in ([len(g) for g in graph.groups], [1 for _ in graph.groups]):
            for make in (bench.layered, bench.whole):
                probe = make(counts)
                probe.run()
                (found,) = probe.passes()
                assert found.whole >= 0
                assert np.size(found.layers) in (0, len(graph.layers))
    finally:
        bench.close()
