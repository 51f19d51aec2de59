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
from amc_env.repair.correction import (
    RIDGES,
    _from_rows,
    chosen,
    correction,
    halves,
    made_of,
    of_products,
    of_rows,
)
from amc_env.repair.moments import collect
from amc_env.repair.sequential import SequentialRepair
from amc_env.repair.shortcuts import shortcuts


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


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(x: Tensor, missing: Tensor, change: Tensor) -> float:
    """Mean square of what is still missing; the last row of a change of one more is a constant."""
    constant = change[:, x.size(2) :].sum(1, keepdim=True)
    return (missing - x @ change[:, : x.size(2)] - constant).square().mean().item()


def test_where_rows_are_many_a_correction_is_least_squares_with_an_offset() -> None:
    x, weights = draws(2, 400, 4), draws(2, 4, 3, seed=1)
    missing = x @ weights + 5 + 0.01 * draws(2, 400, 3, seed=2)
    found = correction(x, missing, offset=True)
    torch.testing.assert_close(found[:, :4], weights, rtol=0.02, atol=0.01)
    torch.testing.assert_close(found[:, 4], torch.full((2, 3), 5.0).double(), rtol=1e-3, atol=0)


def test_a_correction_minimises_its_error_with_the_ridge_that_it_took() -> None:
    """Without noise that is the least: for one input x = 1, 1, 1, ... it divides by 1 + 1e-4."""
    x, missing = torch.ones(1, 8, 1), torch.full((1, 8, 1), 3.0)
    assert correction(x, missing, offset=False).item() == pytest.approx(3 / (1 + RIDGES[0]), rel=1e-9)


@pytest.mark.parametrize(("rows", "inputs"), [(60, 40), (30, 50)])
def test_noise_is_not_fitted(rows: int, inputs: int) -> None:
    """Neither by normal equations nor, with more inputs than rows, by those of the rows."""
    worse = []
    for seed in range(10):
        x, missing = draws(1, rows, inputs, seed=seed), draws(1, rows, 5, seed=seed + 100)
        unseen = draws(1, 1000, inputs, seed=seed + 200), draws(1, 1000, 5, seed=seed + 300)
        nothing = torch.zeros(1, inputs, 5, dtype=torch.float64)
        found = correction(x, missing, offset=False)
        worse.append(error(*unseen, found) / error(*unseen, nothing))
    assert max(worse) < 1.25
    assert worse.count(1.0) >= 1  # nothing was changed


def test_the_two_forms_of_the_solve_agree() -> None:
    """With as many inputs as rows, the ridge is the same in both: Xᵀ (X Xᵀ + r)⁻¹ = (Xᵀ X + r)⁻¹ Xᵀ."""
    x, weights = draws(1, 12, 12), draws(1, 12, 2, seed=1)
    x[:, 9:] = x[:, :3]  # the rows that are held out are fitted exactly by the others
    missing = x @ weights
    primal = correction(x, missing, offset=False)
    dual = _from_rows(x, missing, offset=False, worth=1.0)
    torch.testing.assert_close(x @ primal, x @ dual, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("inputs", [79, 81, 400])
def test_a_constant_has_no_ridge_however_many_inputs_there_are(inputs: int, scale: float) -> None:
    change = correction(scale * draws(1, 80, inputs), torch.full((1, 80, 1), 3.0).double(), offset=True)
    assert change[0, -1].item() == pytest.approx(3.0)
    assert change[0, :-1].abs().max() < 1e-9


@pytest.mark.parametrize("rows", [40, 8])
def test_errors_of_an_output_that_is_worth_nothing_choose_no_ridge(rows: int) -> None:
    x, weights = draws(1, rows, 12), draws(1, 12, 1, seed=1)
    missing = torch.cat([x @ weights, 100 * draws(1, rows, 1, seed=2)], 2)
    worth = torch.tensor([[[1.0, 0.0]]]).double()
    alone = correction(x, missing[..., :1], offset=True)
    torch.testing.assert_close(correction(x, missing, offset=True, worth=worth)[..., :1], alone)


def test_what_is_missing_and_made_follows_from_products() -> None:
    x, weights, target = draws(2, 90, 5), draws(2, 6, 3, seed=1), draws(2, 90, 3, seed=2)
    outputs = x @ weights[:, :5] + weights[:, 5:]
    torch.testing.assert_close(made_of(x, weights), outputs)
    some, rest = halves(x, target, offset=True)
    for gram, cross in (some, rest):
        torch.testing.assert_close(gram, gram.mT)
        cross -= gram @ weights
    wanted = correction(x, target - outputs, offset=True)
    torch.testing.assert_close(chosen(some, rest, 5, 90), wanted)
    both = of_products(some[0] + rest[0], weights), of_rows(outputs)
    torch.testing.assert_close(both[0].mean, outputs.mean(1).flatten())
    torch.testing.assert_close(both[0].deviation, both[1].deviation)


def test_nothing_is_changed_where_nothing_was_removed(digits: DataSet) -> None:
    model, graph = network("digits_cnn", digits)
    whole = cut(model, graph, Plan.dense(graph))
    before = copy.deepcopy(whole.state_dict())
    SequentialRepair(model, graph, digits, images=50, points=5, seed=0).repair(
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
        SequentialRepair(model, graph, digits, images=200, points=10, seed=0).repair(
            small, graph.mask(plan.kept)
        )
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
        SequentialRepair(model, graph, digits, images=200, points=10, seed=0).repair(
            small, graph.mask(plan.kept)
        )
        after = small(images)
    assert (after - dense).square().mean() < 0.5 * (before - dense).square().mean()


@pytest.mark.parametrize(
    ("name", "groups_kept"),
    [("plain20-digits", 0.4), ("tabular-digits_depthwise7", 0.5), ("tabular-digits_grouped6", 0.5)],
)
def test_folded_and_unfolded_networks_are_repaired_alike(
    digits: DataSet, name: str, groups_kept: float
) -> None:
    """Channels of very different scales, and few rows, so that ridges are near each other."""
    model, _ = weights.load(weights.shipped(name))
    graph = trace(model, digits.shape)
    channels, plan = Channels(graph, magnitude_orders(model, graph), round_to=1), Plan.dense(graph)
    for group in graph.groups:
        plan = plan.with_group(group.index, channels.choose(group.index, round(groups_kept * len(group))))
    mask = graph.mask(plan.kept)
    images = digits.normalise(digits["reward"].images)
    settings = {"images": 100, "points": 10, "seed": 0}

    open_ = cut(model, graph, plan)
    SequentialRepair(model, graph, digits, **settings).repair(open_, mask)
    surgeon = Surgeon(model, graph, fold=True)
    dense = copy.deepcopy(surgeon.cut(Plan.dense(graph)))
    folded = surgeon.cut(plan)
    SequentialRepair(dense, graph, digits, **settings).repair(folded, mask)
    with torch.no_grad():
        torch.testing.assert_close(open_.eval()(images), folded(images), rtol=1e-3, atol=1e-3)


def test_errors_of_a_shortcut_are_not_made_up_for_where_a_norm_scales_to_nothing(digits: DataSet) -> None:
    """Neither in a trainable network, nor where the norm is folded into weights that could."""
    model, graph = network("resnet20", digits)
    with torch.no_grad():
        model.get_submodule(dict(graph.folds)[shortcuts(graph)[4].layer.name]).weight.mul_(1e-8)
    plan = half(model, graph)
    mask, images = graph.mask(plan.kept), digits.normalise(digits["reward"].images)
    settings = {"images": 100, "points": 10, "seed": 0}

    open_, surgeon = cut(model, graph, plan), Surgeon(model, graph, fold=True)
    SequentialRepair(model, graph, digits, **settings).repair(open_, mask)
    dense, folded = copy.deepcopy(surgeon.cut(Plan.dense(graph))), surgeon.cut(plan)
    SequentialRepair(dense, graph, digits, **settings, unfolded=model).repair(folded, mask)
    with torch.no_grad():
        torch.testing.assert_close(open_.eval()(images), folded(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [40, 8])
def test_a_block_without_inputs_leaves_the_correction_of_the_others(rows: int) -> None:
    x, weights = draws(2, rows, 12), draws(2, 12, 3, seed=1)
    missing = x @ weights
    alone = correction(x[:1], missing[:1], offset=False)
    assert alone.abs().max() > 0.1
    x[1] = 0
    both = correction(x, torch.cat([missing[:1], torch.zeros(1, rows, 3)]), offset=False)
    torch.testing.assert_close(both[:1], alone)
    assert not both[1].any()


def test_the_dense_network_and_modes_are_as_they_were(digits: DataSet) -> None:
    model, graph = network("digits_cnn", digits)
    plan, before = half(model, graph), copy.deepcopy(model.state_dict())
    small = cut(model, graph, plan).train()
    SequentialRepair(model, graph, digits, images=50, points=5, seed=0).repair(small, graph.mask(plan.kept))
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
    SequentialRepair(model, graph, digits, images=50, points=5, seed=0).repair(small, graph.mask(plan.kept))
    assert torch.equal(small.twice.weight, before)
    assert not torch.equal(small.last.weight, last)


def test_small_maps_give_all_their_positions_where_rows_are_few(digits: DataSet) -> None:
    model, graph = network("digits_cnn", digits)
    found = SequentialRepair(model, graph, digits, images=200, points=3, seed=0).positions
    for layer in graph.layers:
        if layer.name in found:
            places = layer.out_size[0] * layer.out_size[1]
            wanted = max(3, -(-16 * layer.c_in * layer.taps // 200)) if places <= 49 else 3
            assert found[layer.name].shape == (200, min(places, wanted))
