"""The repair of a whole network on its own inputs."""

import copy

import pytest
import torch
from torch import Tensor, nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.compressors.surgery import Surgeon, cut
from amc_env.data.splits import DataSet, load
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair.moments import collect
from amc_env.repair.sequential import RIDGE, Sequential, correction


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


def network(name: str, data: DataSet, **options: object) -> tuple[nn.Module, Graph]:
    model = zoo.build(name, classes=10, in_channels=1, **options)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(data.normalise(data["train"].images[:200]))
    return model.eval(), trace(model, data.shape)


def half(model: nn.Module, graph: Graph) -> Plan:
    channels, plan = Channels(graph, magnitude_orders(model, graph), round_to=1), Plan.dense(graph)
    for group in graph.groups:
        plan = plan.with_group(group.index, channels.choose(group.index, (len(group) + 1) // 2))
    return plan


def test_a_correction_is_ridge_regression_with_an_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    missing = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    ridge = (RIDGE + (4 / 50) ** 3) * ones.square().mean()
    stacked = torch.cat([ones, (50 * ridge).sqrt() * torch.eye(5, dtype=torch.float64)])
    expected = torch.linalg.lstsq(
        stacked, torch.cat([missing, torch.zeros(5, 3, dtype=torch.float64)])
    ).solution
    torch.testing.assert_close(correction(x, missing, offset=True), expected)


def test_the_two_forms_of_the_solve_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, generator=generator, dtype=torch.float64)  # more inputs than rows: the dual form
    missing = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    ridge = (RIDGE + 1.0) * x.square().mean()
    expected = torch.linalg.solve(x.T @ x + 6 * ridge * torch.eye(9, dtype=torch.float64), x.T @ missing)
    torch.testing.assert_close(correction(x, missing, offset=False), expected)


def test_nothing_is_changed_where_nothing_was_removed(digits: DataSet) -> None:
    model, graph = network("digits_cnn", digits)
    whole = cut(model, graph, Plan.dense(graph))
    before = copy.deepcopy(whole.state_dict())
    Sequential(model, graph, digits, images=50, points=5, seed=0).repair(
        whole, graph.mask(Plan.dense(graph).kept)
    )
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("plain", {"depth": 8}), ("resnet", {"depth": 8})])
def test_errors_add_up_less_than_with_dense_inputs(
    name: str, options: dict[str, int], digits: DataSet
) -> None:
    model, graph = network(name, digits, **options)
    plan = half(model, graph)
    images = digits.normalise(digits["reward"].images)
    moments = collect(model, graph, digits, images=200, points=10, seed=0)
    small = cut(model, graph, plan, moments.solve).eval()
    with torch.no_grad():
        dense, before = model(images), small(images)
        Sequential(model, graph, digits, images=200, points=10, seed=0).repair(small, graph.mask(plan.kept))
        after = small(images)
    assert (after - dense).square().mean() < (before - dense).square().mean()


def test_a_trained_network_is_restored_much_better(digits: DataSet) -> None:
    model, _ = weights.load(weights.shipped("digits_cnn-digits"))
    graph = trace(model, digits.shape)
    plan, images = half(model, graph), digits.normalise(digits["reward"].images)
    moments = collect(model, graph, digits, images=200, points=10, seed=0)
    small = cut(model, graph, plan, moments.solve).eval()
    with torch.no_grad():
        dense, before = model(images), small(images)
        Sequential(model, graph, digits, images=200, points=10, seed=0).repair(small, graph.mask(plan.kept))
        after = small(images)
    assert (after - dense).square().mean() < 0.5 * (before - dense).square().mean()


def test_folded_and_unfolded_networks_are_repaired_alike(digits: DataSet) -> None:
    model, graph = network("plain", digits, depth=8)
    plan = half(model, graph)
    mask = graph.mask(plan.kept)
    images = digits.normalise(digits["reward"].images)
    settings = {"images": 100, "points": 10, "seed": 0}

    open_ = cut(model, graph, plan)
    Sequential(model, graph, digits, **settings).repair(open_, mask)
    surgeon = Surgeon(model, graph, fold=True)
    dense = copy.deepcopy(surgeon.cut(Plan.dense(graph)))
    folded = surgeon.cut(plan)
    Sequential(dense, graph, digits, **settings).repair(folded, mask)
    with torch.no_grad():
        torch.testing.assert_close(open_.eval()(images), folded(images), rtol=1e-3, atol=1e-3)


def test_the_dense_network_and_modes_are_as_they_were(digits: DataSet) -> None:
    model, graph = network("digits_cnn", digits)
    plan, before = half(model, graph), copy.deepcopy(model.state_dict())
    small = cut(model, graph, plan).train()
    Sequential(model, graph, digits, images=50, points=5, seed=0).repair(small, graph.mask(plan.kept))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in small.modules())
    assert not any(module._forward_pre_hooks for module in (*small.modules(), *model.modules()))
    assert all(parameter.requires_grad for parameter in small.parameters())
    small(digits.normalise(digits["train"].images[:8])).sum().backward()


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.first(x)).relu()).relu().mean((2, 3)))


def test_a_module_that_runs_twice_is_left_alone(digits: DataSet) -> None:
    model = Shared().eval()
    graph = trace(model, digits.shape)
    plan = half(model, graph)
    small = cut(model, graph, plan)
    before = small.twice.weight.detach().clone()
    last = small.last.weight.detach().clone()
    Sequential(model, graph, digits, images=50, points=5, seed=0).repair(small, graph.mask(plan.kept))
    assert torch.equal(small.twice.weight, before)
    assert not torch.equal(small.last.weight, last)
