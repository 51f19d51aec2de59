"""Networks whose forward reaches a module by something else than its name, and layers with hooks.

The network that gives rewards has folded batch norms, and layer methods put other modules in the places of
layers: both have to be the network that is delivered, or to be refused.
"""

from typing import Any

import pytest
import torch
from test_unusual import toy
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.building import make_env, make_task
from amc_env.data.own import OwnData
from amc_env.data.splits import DataError
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace
from amc_env.plan import Plan

SMALL: dict[str, Any] = {"calibration_images": 40, "points": 5, "floor": 0.1}


class Chain(nn.Module):
    """Three convolutions, a batch norm with statistics that matter, a classifier."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.b, self.c = nn.Conv2d(16, 16, 3, padding=1, **settings), nn.Conv2d(16, 16, 3, padding=1)
        self.bn, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)
        self.bn.running_var.fill_(0.01)
        self.bn.running_mean.fill_(-0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))

    def last(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


def index_of(task: Any, name: str) -> int:
    """The decision of a layer."""
    return [layer.name for layer in task.compressor.layers].index(name)


class ListedNorm(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.norms = [self.bn]

    def last(self, x: Tensor) -> Tensor:
        return self.norms[0](self.c(x))


class AskedNorm(Chain):
    def last(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x)) * (2 if isinstance(self.bn, nn.BatchNorm2d) else 1)


@pytest.mark.parametrize("kind", [Chain, ListedNorm, AskedNorm])
@pytest.mark.parametrize("repair", ["moments", "sequential"])
def test_rewards_are_of_the_network_that_is_delivered(kind: type[Chain], repair: str) -> None:
    model = kind().eval()
    env = make_env(model, toy(), repair=repair, order="magnitude", **SMALL)
    assert bool(env.task.graph.folds) == (kind is Chain)
    images, _ = next(toy().batches("reward", 10))
    evaluated = env.evaluator._networks.network(Plan.dense(env.graph)).eval()
    with torch.no_grad():
        torch.testing.assert_close(evaluated(images), model(images), rtol=1e-4, atol=1e-4)


class ListedLayers(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.convs = [self.b, self.c]

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for conv in self.convs:
            x = conv(x).relu()
        return self.head(self.bn(x).mean((2, 3)))


class AskedLayers(Chain):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for layer in (self.b, self.c):
            x = layer(x)
            x = x.relu() if isinstance(layer, nn.Conv2d) else x
        return self.head(x.mean((2, 3)) + 0 * self.bn(x).mean((2, 3)))


class ReadLayer(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.b.weight.dtype))


@pytest.mark.parametrize(
    ("kind", "method"),
    [(ListedLayers, method) for method in ("fine_grained", "low_rank", "weight_sharing")]
    + [(AskedLayers, "low_rank"), (ReadLayer, "low_rank")],
)
def test_a_layer_that_cannot_be_replaced_is_refused(kind: type[Chain], method: str) -> None:
    model, settings = kind().eval(), {"method": method, "repair": "none", "order": "magnitude"}
    with pytest.raises(TraceError, match=rf"{method} cannot replace 'b'"):
        make_task(model, toy(), **settings, **SMALL)
    task = make_task(model, toy(), **settings, **SMALL, keep_whole=["b", "c"])
    assert not {"b", "c"} & {layer.name for layer in task.compressor.layers}


@pytest.mark.parametrize("method", ["fine_grained", "weight_sharing"])
def test_layers_of_the_same_class_may_be_asked_for_it_and_read(method: str) -> None:
    for kind in (AskedLayers, ReadLayer):
        make_task(kind().eval(), toy(), method=method, repair="none", order="magnitude", **SMALL)


def test_low_rank_leaves_layers_with_hooks_whole_and_frozen_ones_frozen() -> None:
    model = Chain().eval()
    model.b.register_forward_hook(lambda module, args, output: 2 * output)
    model.c.requires_grad_(False)
    task = make_task(model, toy(), method="low_rank", repair="none", order="magnitude", **SMALL)
    assert [layer.name for layer in task.compressor.layers] == ["a", "c", "head"]
    plan = Plan.dense(task.graph).with_group(index_of(task, "c"), (0, 1))
    assert not any(value.requires_grad for value in task.network(plan).c.parameters())


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_macs_of_a_spatial_split_are_those_that_run(mode: str) -> None:
    model = Chain(padding_mode=mode).eval()
    task = make_task(
        model, toy(), method="low_rank", split="spatial", repair="none", order="magnitude", **SMALL
    )
    counts = [len(group) for group in task.graph.groups]
    whole = int(task.compressor.prices("macs")(counts))
    counts[index_of(task, "b")] = 3
    vertical, horizontal = 16 * 3 * 3, 3 * 16 * 3  # weights of 3 ranks, each used at 8 x 8 positions
    assert whole - task.compressor.prices("macs")(counts) == 64 * (16 * 16 * 9 - vertical - horizontal)


def test_single_weights_of_the_layer_that_reads_the_image_are_repaired() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 4)).eval()
    data = toy(400)
    images, _ = next(data.batches("calibration", 400))
    outputs = []
    for repair in ("none", "moments"):
        task = make_task(
            model, data, method="fine_grained", repair=repair, order="magnitude",
            calibration_images=400, points=1, floor=0.1,
        )  # fmt: skip
        plan = Plan.dense(task.graph).with_group(0, tuple(range(30)))
        with torch.no_grad():
            found, expected = (each[:2](images) for each in (task.network(plan), model))
        outputs.append((found - expected).square().mean())
    assert outputs[1] < 0.8 * outputs[0]


class Gains(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.gains = [self.gain]

    def last(self, x: Tensor) -> Tensor:
        return super().last(x * self.gains[0])


def test_a_parameter_that_a_list_also_holds_is_trained_after_the_cut() -> None:
    task = make_task(Gains().eval(), toy(), repair="none", order="magnitude", **SMALL)
    small = task.network(Plan.dense(task.graph).with_group(0, tuple(range(8))))
    images, _ = next(toy().batches("train", 10))
    small(images).sum().backward()
    assert small.gain is small.gains[0]
    assert small.gain.grad is not None


class OptionA(nn.Module):
    """Channels that are padded after a grouped convolution, of which one atom may be left."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.g = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.b, self.head = nn.Conv2d(24, 24, 3, padding=1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.g(self.a(x).relu()).relu(), (0, 0, 0, 0, 4, 4))
        return self.head((x + self.b(x)).mean((2, 3)))


def test_channels_are_padded_where_one_is_left_of_each_group() -> None:
    task = make_task(OptionA().eval(), toy(), repair="none", order="magnitude", **SMALL)
    plan = Plan.dense(task.graph)
    for group in task.graph.groups:
        plan = plan.with_group(group.index, task.compressor.choose(group.index, 1))
    assert task.network(plan).b.in_channels == 8 + 2


class ViewedShuffle(nn.Module):
    """ShuffleNet's shuffle, with images and channels in one dimension of a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.c, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        n, c, h, w = x.shape
        x = x.view(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        return self.head(self.c(self.b(x[0] + x[1]).relu()).mean((2, 3)))


def test_a_view_of_images_and_channels_takes_the_default_memory_format() -> None:
    task = make_task(ViewedShuffle().eval(), toy(), repair="moments", **SMALL)
    assert not task.graph.channels_last
    task.evaluator("reward", 10)(Plan.dense(task.graph))


class Keeps(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def last(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().last(x)


def test_a_list_that_the_forward_fills_is_left_as_it_was() -> None:
    model = Keeps().eval()
    trace(model, (1, 8, 8))
    assert model.seen == []
    make_task(model, toy(), repair="moments", **SMALL)


class Random(Chain):
    def last(self, x: Tensor) -> Tensor:
        return super().last(F.dropout(x, 0.5))


def test_a_forward_that_is_random_in_evaluation_is_told_as_that() -> None:
    with pytest.raises(TraceError, match="draws random numbers in evaluation"):
        make_task(Random().eval(), toy(), repair="moments", **SMALL)


class Dead(Chain):
    def last(self, x: Tensor) -> Tensor:
        return super().last((x - 1e6).relu())


def test_a_spatial_split_of_a_layer_whose_inputs_are_all_zero() -> None:
    task = make_task(Dead().eval(), toy(), method="low_rank", split="spatial", repair="moments", **SMALL)
    assert all(bool(value.isfinite().all()) for value in task.rehearsal().state_dict().values())
    small = task.network(Plan.dense(task.graph).with_group(index_of(task, "c"), (0, 1)))
    assert all(bool(value.isfinite().all()) for value in small.state_dict().values())


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.body(torch.cat([x, x.flip(3)])).mean((2, 3)).chunk(2)
        return (one - other).norm(dim=1)


@pytest.mark.parametrize("repair", ["moments", "sequential"])
def test_a_part_that_is_given_more_images_than_the_network(repair: str) -> None:
    parts = [(torch.rand(4, 1, 8, 8), None) for _ in range(3)]
    data = OwnData("own", 2, dict.fromkeys(("calibration", "reward", "selection", "test"), parts))
    settings = {"part": "body", "metric": lambda network, batches: 0.0, **SMALL}
    task = make_task(Pair().eval(), data, repair=repair, order="magnitude", **settings)
    plan = Plan.dense(task.graph).with_group(0, (0, 1))
    with pytest.raises(DataError, match=r"'body\.2' is given \d+ inputs for \d+ images"):
        task.network(plan)
    make_task(Pair().eval(), data, repair="none", order="magnitude", **settings).evaluator("reward")
