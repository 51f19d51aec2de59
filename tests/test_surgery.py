"""A cut network equals the masked one, has the predicted cost, and leaves the dense one unchanged."""

import copy
from collections.abc import Iterable, Iterator

import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amc_env.compressors.masking import masked
from amc_env.compressors.networks import MaskedNetworks
from amc_env.compressors.surgery import Problem, Surgeon, cut, drop
from amc_env.compressors.trial import try_cut
from amc_env.cost import Macs, Params, mask_widths
from amc_env.graph.labels import TraceError
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.plan import Plan, PlanError

names = pytest.mark.parametrize("name", networks.NETS)


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[nn.Module, Graph]]:
    models = {name: networks.ready(build()) for name, build in networks.NETS.items()}
    return {name: (model, trace(model, networks.PAIR)) for name, model in models.items()}


def assert_same_logits(one: nn.Module, other: nn.Module) -> None:
    x = networks.pixels(3)
    with torch.no_grad():
        torch.testing.assert_close(one(x), other(x), rtol=0, atol=1e-5)


@names
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_cut_equals_masked(traced: dict[str, tuple[nn.Module, Graph]], name: str, seed: int) -> None:
    model, graph = traced[name]
    plan = networks.random_plan(graph, seed)
    small = cut(model, graph, plan)
    assert_same_logits(small, masked(model, graph, plan))
    assert_same_logits(small, Surgeon(model, graph, fold=True).cut(plan))


@names
def test_a_network_at_full_size_computes_the_same_plan_after_plan(
    traced: dict[str, tuple[nn.Module, Graph]], name: str
) -> None:
    model, graph = traced[name]
    if graph.norms:
        with pytest.raises(ValueError, match="belongs to a norm over channels: cut such a network"):
            MaskedNetworks(model, graph)
        return
    before, shapes = copy.deepcopy(model.state_dict()), set()

    def scaled(problems: Iterable[Problem]) -> Iterator[torch.Tensor]:
        for problem in problems:
            lost = problem.weight.size(1) - len(problem.columns)
            yield problem.weight[:, problem.columns] * (
                1 + min(lost, 1) * (problem.block + problem.columns) / 100
            )

    masked_networks = MaskedNetworks(model, graph, scaled)
    for seed in range(4):
        plan = networks.random_plan(graph, seed)
        network = masked_networks.network(plan)
        assert_same_logits(network, cut(model, graph, plan, scaled))
        shapes.add(tuple(value.shape for value in network.state_dict().values()))
    assert_same_logits(masked_networks.network(Plan.dense(graph)), model)
    assert len(shapes) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@names
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_costs_equal_independent_counts(
    traced: dict[str, tuple[nn.Module, Graph]], name: str, seed: int
) -> None:
    model, graph = traced[name]
    plan = networks.random_plan(graph, seed)
    small = cut(model, graph, plan)
    widths = mask_widths(graph, graph.mask(plan.kept))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(networks.pixels(1))
    assert 2 * int(Macs(graph)(widths)) == counter.get_total_flops()
    assert int(Params(graph)(widths)) == sum(parameter.numel() for parameter in small.parameters())


@names
def test_the_dense_plan_gives_the_dense_network(
    traced: dict[str, tuple[nn.Module, Graph]], name: str
) -> None:
    model, graph = traced[name]
    assert_same_logits(cut(model, graph, Plan.dense(graph)), model)
    assert_same_logits(masked(model, graph, Plan.dense(graph)), model)
    widths = mask_widths(graph, graph.mask(Plan.dense(graph).kept))
    assert int(Params(graph)(widths)) == sum(parameter.numel() for parameter in model.parameters())


@names
def test_the_state_of_a_cut_network_fits_the_same_plan(
    traced: dict[str, tuple[nn.Module, Graph]], name: str
) -> None:
    model, graph = traced[name]
    plan = networks.random_plan(graph, 3)
    small = cut(model, graph, plan)
    other = cut(networks.ready(networks.NETS[name](), seed=5), graph, plan)
    other.load_state_dict(small.state_dict())
    assert_same_logits(small, other)


@names
def test_a_cut_network_can_be_trained(traced: dict[str, tuple[nn.Module, Graph]], name: str) -> None:
    model, graph = traced[name]
    small = cut(model, graph, networks.random_plan(graph, 4)).train()
    small(networks.pixels(4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@names
@pytest.mark.parametrize("fold", [False, True])
def test_refilling_leaves_no_trace(traced: dict[str, tuple[nn.Module, Graph]], name: str, fold: bool) -> None:
    model, graph = traced[name]
    surgeon, plan = Surgeon(model, graph, fold=fold), networks.random_plan(graph, 1)
    once = copy.deepcopy(surgeon.cut(plan))
    for parameter in surgeon.cut(networks.random_plan(graph, 2)).parameters():
        parameter.data.fill_(7)  # as if it had been trained

    again = surgeon.cut(plan)

    assert again.state_dict().keys() == once.state_dict().keys()
    assert all(torch.equal(value, once.state_dict()[key]) for key, value in again.state_dict().items())
    assert repr(again) == repr(once)


@names
def test_the_dense_network_is_never_written(traced: dict[str, tuple[nn.Module, Graph]], name: str) -> None:
    model, graph = traced[name]
    before, printed = copy.deepcopy(model.state_dict()), repr(model)
    pointers = [value.data_ptr() for value in model.state_dict().values()]
    for fold in (False, True):
        for value in (
            Surgeon(model, graph, fold=fold).cut(networks.random_plan(graph, 1)).state_dict().values()
        ):
            value.zero_()
    masked(model, graph, networks.random_plan(graph, 1))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [value.data_ptr() for value in model.state_dict().values()] == pointers
    assert repr(model) == printed


def test_what_is_kept_by_hand(traced: dict[str, tuple[nn.Module, Graph]]) -> None:
    model, graph = traced["residual"]
    small = cut(model, graph, Plan(graph.hash, ((1, 4), (0, 2, 3))))
    assert torch.equal(small.stem.weight, model.stem.weight[[1, 4]])
    assert torch.equal(small.first.weight, model.first.weight[[0, 2, 3]][:, [1, 4]])
    assert torch.equal(small.second.weight, model.second.weight[[1, 4]][:, [0, 2, 3]])
    assert torch.equal(small.norm.running_var, model.norm.running_var[[1, 4]])
    assert torch.equal(small.head[2].weight, model.head[2].weight[:, [1, 4]])
    assert (small.first.in_channels, small.first.out_channels, small.norm.num_features) == (2, 3, 2)


def test_columns_of_a_linear_layer_after_flatten(traced: dict[str, tuple[nn.Module, Graph]]) -> None:
    model, graph = traced["flatten_linear"]
    small = cut(model, graph, Plan(graph.hash, (None, (0, 2), None)))
    assert torch.equal(small[7].weight, model[7].weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])


def test_the_solver_sees_each_block_and_what_is_left_of_it(
    traced: dict[str, tuple[nn.Module, Graph]],
) -> None:
    model, graph = traced["grouped"]
    seen = []

    def solve(problems: Iterable[Problem]) -> Iterator[torch.Tensor]:
        for problem in problems:
            seen.append(
                (problem.layer.name, problem.block, tuple(problem.weight.shape), problem.columns.tolist())
            )
            yield from (2 * weight for weight in drop([problem]))

    small = cut(model, graph, Plan(graph.hash, ((1,), (0, 2))), solve)

    nine = list(range(9, 18))
    assert seen[1:5] == [("2", block, (2, 18), nine) for block in range(4)]
    rows = [0, 2, 3, 5, 6, 8, 9, 11]
    assert torch.equal(small[2].weight, 2 * model[2].weight[rows][:, [1]])


def test_a_plan_for_another_network_is_refused(traced: dict[str, tuple[nn.Module, Graph]]) -> None:
    model, graph = traced["residual"]
    other = Plan.dense(traced["chain"][1])
    for use in (cut, masked, lambda m, g, p: Surgeon(m, g, fold=True).cut(p)):
        with pytest.raises(PlanError, match=f"{other.graph}.*{graph.hash}"):
            use(model, graph, other)


def test_double_precision(traced: dict[str, tuple[nn.Module, Graph]]) -> None:
    model = copy.deepcopy(traced["residual"][0]).double()
    graph = trace(model, networks.PAIR)
    plan = networks.random_plan(graph, 0)
    x = networks.pixels(2).double()
    with torch.no_grad():
        expected = masked(model, graph, plan)(x)
        torch.testing.assert_close(cut(model, graph, plan)(x), expected, rtol=0, atol=1e-12)


def test_masking_zeroes_what_reads_a_removed_channel(traced: dict[str, tuple[nn.Module, Graph]]) -> None:
    model, graph = traced["chain"]
    network = masked(model, graph, Plan(graph.hash, ((0, 5), None))).network
    gone = np.arange(1, 5)
    assert not network[3].weight[:, gone].any()
    assert torch.equal(network[3].weight[:, [0, 5]], model[3].weight[:, [0, 5]])
    assert torch.equal(network[0].weight, model[0].weight)


@names
def test_a_cut_network_shares_no_memory_with_the_dense_one(
    traced: dict[str, tuple[nn.Module, Graph]], name: str
) -> None:
    model, graph = traced[name]
    before = copy.deepcopy(model.state_dict())
    for plan in (Plan.dense(graph), networks.random_plan(graph, 0)):
        for parameter in cut(model, graph, plan).parameters():
            parameter.data.fill_(7)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


class Coincidence(nn.Module):
    """Adds a shortcut where two widths happen to be equal, as they never are in the dense network."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, one, 3, padding=1), nn.Conv2d(one, other, 3, padding=1)
        self.head = nn.Linear(other, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).relu()
        y = self.second(x)
        if y.shape == x.shape:
            y = y + x
        return self.head(y.relu().mean((2, 3)))


@pytest.mark.parametrize("widths", [(32, 48), (16, 32), (24, 48), (20, 32)])
def test_a_branch_that_equal_widths_would_take_is_refused_at_once(widths: tuple[int, int]) -> None:
    model = Coincidence(*widths)
    with pytest.raises(TraceError, match=r"not kept together.* choices of branches by equal sizes"):
        try_cut(model, trace(model, (1, 8, 8)))
