"""Networks and data that are unusual and valid: right, or refused in a line before any long work."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from amc_env import zoo
from amc_env.building import METHODS, AnyTask, make_env, make_task
from amc_env.compressors.constraints import Shared, unconstrained
from amc_env.compressors.trial import random_plan
from amc_env.data.own import OwnData, OwnSplit
from amc_env.data.splits import DataError
from amc_env.data.tensors import from_tensors
from amc_env.graph.given import nested
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace
from amc_env.metrics import EvaluationError, Score
from amc_env.plan import Plan
from amc_env.repair import elimination
from amc_env.repair.elimination import orders
from amc_env.repair.moments import collect
from amc_env.rewards import REWARDS, WEIGHED


def toy(count: int = 80) -> Any:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 4
    return from_tensors(images, labels, images, labels, seed=0)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *pooled).eval()


class PerPixel(nn.Module):
    """Linear layers on every pixel, which may lie in the batch dimension."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.a, self.b, self.c = nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1)
        x = self.c(self.b(self.a(x.reshape(-1, c) if self.flat else x).relu()).relu())
        return x.reshape(n, h * w, 4).mean(1)


def test_positions_in_the_batch_dimension_are_counted() -> None:
    torch.manual_seed(0)
    plain, flat = PerPixel(False).eval(), PerPixel(True).eval()
    flat.load_state_dict(plain.state_dict())
    graphs = [trace(each, (1, 8, 8)) for each in (plain, flat)]
    assert [[layer.positions for layer in graph.layers] for graph in graphs] == [[64, 64, 64]] * 2
    found = [
        collect(each, graph, toy(), images=30, points=10, seed=0)
        for each, graph in zip((plain, flat), graphs, strict=True)
    ]
    assert found[0].grams.keys() == found[1].grams.keys()
    assert all(torch.equal(gram, found[1].grams[name]) for name, gram in found[0].grams.items())
    assert found[0].counts == found[1].counts


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = self.conv(torch.cat([x, x.flip(3)], 0)).mean((2, 3))
        return self.head(both.view(2, -1, 4).mean(0))


def test_a_convolution_of_several_views_of_an_image_is_refused() -> None:
    with pytest.raises(TraceError, match=r"one image is 2 at 'conv'"):
        trace(Views().eval(), (1, 8, 8))


def test_wide_layers_with_more_rows_than_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their moments are a Gram matrix, and no rows are kept."""
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    graph = trace(nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 8, 8))
    moments = collect(model, graph, toy(), images=20, points=10, seed=0)
    monkeypatch.setattr(elimination, "INVERTED", 10)
    assert "2" in moments.grams
    assert sorted(orders(model, graph, moments)[0]) == list(range(6))


class Twice(nn.Module):
    """One module under two names, both of which are called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.stem(x).relu()).relu()).mean((2, 3)))


def smallest(task: AnyTask) -> Plan:
    """The plan of the smallest choices."""
    compressor, plan = task.compressor, Plan.dense(task.graph)
    for group, choices in enumerate(compressor.choices):
        plan = plan.with_group(group, compressor.choose(group, int(choices[0])))
    return plan


@pytest.mark.parametrize("method", ["fine_grained", "low_rank", "weight_sharing", "joint"])
def test_a_module_with_two_names_is_replaced_under_both(method: str) -> None:
    torch.manual_seed(0)
    task = make_task(Twice().eval(), toy(), method=method, repair="none", order="magnitude", floor=0.01)
    plan = smallest(task)
    small = unconstrained(task.network(plan))
    assert small.a is small.b
    assert not any("parametrizations" in key for key in small.state_dict())
    evaluated = task.evaluator("selection")(plan)
    with torch.no_grad():
        images, labels = next(task.data.batches("selection", len(task.data["selection"])))
        top1 = (small(images).argmax(1) == labels).float().mean()
    assert evaluated.top1 == pytest.approx(float(top1), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_delivered_is_in_eval_mode_and_frozen_where_the_network_was(method: str) -> None:
    model = Twice()  # in training mode
    model.stem.requires_grad_(False)
    task = make_task(model, toy(), method=method, repair="none", order="magnitude", floor=0.01)
    small = task.network(smallest(task))
    assert not any(module.training for module in small.modules())
    for name, parameter in unconstrained(small).named_parameters():
        assert parameter.requires_grad == (not name.startswith("stem"))


@pytest.mark.parametrize("name", WEIGHED)
def test_a_metric_in_percent_is_not_weighed(name: str) -> None:
    costs = dict.fromkeys(("macs", "params", "bits", "latency"), 1000)
    with pytest.raises(EvaluationError, match="divide it"):
        REWARDS[name](Score(28.0, 1.0, 64, "reward"), costs)


def test_targets_that_are_not_one_for_each_image_stay_whole() -> None:
    boxes = torch.arange(16).repeat_interleave(3)
    ((images, kept),) = OwnSplit([(torch.zeros(16, 1, 8, 8), boxes)]).head(8).batches
    assert (len(images), len(kept)) == (16, 48)
    ((images, kept),) = OwnSplit([(torch.zeros(16, 1, 8, 8), torch.arange(16))]).head(8).batches
    assert (len(images), len(kept)) == (8, 8)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.branches = nn.ModuleList(nn.Conv2d(4, 1, 1) for _ in range(4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + torch.cat([branch(x) for branch in self.branches], 1)
        return self.head(x.mean((2, 3)))


def test_the_plan_of_the_trial_leaves_no_branch_empty() -> None:
    graph = trace(Branches().eval(), (1, 8, 8))
    for seed in range(20):
        random_plan(graph, seed).check(graph)


def test_a_single_row_of_calibration_changes_nothing() -> None:
    env = make_env(net(), toy(), calibration_images=1, points=1)
    _, info = env.reset()
    for _ in range(info["decisions"]):
        *_, info = env.step([0.5])
    assert math.isfinite(info["loss"])


def test_batches_that_cannot_be_joined_are_refused_before_the_moments() -> None:
    batch = ({"image": torch.zeros(8, 1, 8, 8)}, torch.zeros(8))
    data = OwnData(
        "own", 4, {split: [batch, batch] for split in ("calibration", "reward", "selection", "test")}
    )

    class OfDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.net(x["image"])

    with pytest.raises(DataError, match="cannot be joined"):
        make_task(OfDict().eval(), data, part="net", metric=lambda network, batches: 0.5)


def test_later_changes_of_the_model_do_not_reach_the_task() -> None:
    model, images = net(), torch.rand(2, 1, 8, 8)
    task = make_task(model, toy(), calibration_images=20)
    plan = random_plan(task.graph)
    before = task.network(plan).eval()(images)
    model.load_state_dict(net(1).state_dict())
    assert torch.equal(task.network(plan).eval()(images), before)


def test_a_layer_of_zeros_is_shared() -> None:
    shared = Shared(torch.zeros(4, 4), 2)
    assert torch.equal(shared(shared.values), torch.zeros(4, 4))


def test_a_named_tuple_stays_one() -> None:
    class Pair(NamedTuple):
        boxes: int
        labels: int

    assert nested([Pair(1, 2)], lambda value: value + 1) == [Pair(2, 3)]
    assert isinstance(nested(Pair(1, 2), str), Pair)


def test_a_latency_table_is_of_the_sizes_that_layers_run_on() -> None:
    small, large = (trace(net(), (1, side, side)) for side in (8, 12))
    wide, other = (
        trace(zoo.build("mobilenet_v1", classes=4, in_channels=3, width=0.25, small=each).eval(), (3, 64, 64))
        for each in (True, False)
    )
    assert small.hash == large.hash
    assert wide.hash == other.hash
    assert len({each.geometry for each in (small, large, wide, other)}) == 4


class Centred(nn.Module):
    """A forward that changes its images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.5))


@pytest.mark.parametrize("method", ["channels", "low_rank"])
def test_a_forward_that_changes_its_images_is_told(method: str) -> None:
    with pytest.raises(TraceError, match="changes its images in place"):
        make_task(Centred().eval(), toy(), method=method, repair="none", order="magnitude")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_part_is_named() -> None:
    model = net()
    model[2] = torch.jit.script(model[2])
    with pytest.raises(TraceError, match="the scripted module '2' cannot be traced or cut; pass what was"):
        trace(model, (1, 8, 8))
    with pytest.raises(TraceError, match="a scripted network cannot be traced or cut; pass what was"):
        trace(torch.jit.script(net()), (1, 8, 8))


def test_a_network_that_is_not_on_the_processor_is_told() -> None:
    with pytest.raises(DataError, match="Its weights are on the device meta, which holds no values"):
        make_env(net().to("meta"), toy())
