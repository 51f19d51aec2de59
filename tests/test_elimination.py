"""The elimination order is the exact greedy one, for every way in which layers read a group."""

from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_reconstruct import ALL, pictures
from torch import Tensor, nn

from amc_env.compressors.channels import magnitude_orders
from amc_env.graph.trace import trace
from amc_env.repair import elimination
from amc_env.repair.elimination import Reader, eliminate, orders, orders_cached
from amc_env.repair.least_squares import damping, refit
from amc_env.repair.moments import collect, collect_cached

NONE = torch.zeros(3, dtype=torch.float64)


def reader(weight: Tensor, gram: Tensor, columns: Tensor, ridge: float = 0.0) -> Reader:
    return Reader(weight[None], gram[None].double(), columns, ridge)


def test_two_equal_channels_and_a_small_one_by_hand() -> None:
    """x0 = x1, so either makes up for the other almost for nothing; the third is small but its own.

    H = [[1, r, 0], [r, 1, 0], [0, 0, 1]] with r = 0.8 and W = [2, 2, 1]: E|W x|² = 15.4.
    Removing x0 costs W0² (1 - r²) = 4 * 0.36 = 1.44, removing x2 costs 1. Afterwards x0 costs as before.
    When x0 is gone, x1 has the weight 2 + 0.8 * 2 = 3.6 and costs 12.96.
    """
    gram = torch.tensor([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]])
    weight, columns = torch.tensor([[2.0, 2.0, 1.0]]), torch.arange(3)[:, None]
    problem = reader(weight, gram, columns)
    expected = torch.tensor([1.44, 1.44, 1.0], dtype=torch.float64) / 15.4
    torch.testing.assert_close(problem.increases(), expected, rtol=1e-6, atol=0)
    problem.remove(0)
    torch.testing.assert_close(
        problem.increases()[1:], torch.tensor([12.96, 1.0], dtype=torch.float64) / 15.4, rtol=1e-6, atol=0
    )
    assert eliminate([reader(weight, gram, columns)], 3, NONE) == [1, 0, 2]


def test_the_increases_of_two_readers_are_added_each_over_its_own_size() -> None:
    """With H = 1, the first reader loses 1/10 or 9/10, the second 900/1000 or 100/1000."""
    eye, columns = torch.eye(2), torch.arange(2)[:, None]
    first, second = torch.tensor([[1.0, 3.0]]), torch.tensor([[30.0, 10.0]])
    assert eliminate([reader(first, eye, columns)], 2, NONE[:2]) == [1, 0]
    assert eliminate([reader(second, eye, columns)], 2, NONE[:2]) == [0, 1]
    both = reader(first, eye, columns).increases() + reader(second, eye, columns).increases()
    torch.testing.assert_close(both, torch.ones(2, dtype=torch.float64))
    assert eliminate([reader(first, eye, columns)], 2, torch.tensor([0.9, 0.0]).double()) == [0, 1]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """Weights ``(out, d)``, a Gram matrix, columns ``(n, m)`` of some channels in any order, a ridge."""
    n, m, rest = draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    rows = torch.randn(draw(st.integers(2, 40)), n * m + rest, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(n * m + rest, n * m + rest, generator=generator, dtype=torch.float64)
    rows[:, draw(st.lists(st.integers(0, n * m + rest - 1), max_size=1))] = 0
    weight = torch.randn(3, n * m + rest, generator=generator)
    columns = torch.randperm(n * m + rest, generator=generator)[: n * m].view(n, m)
    if draw(st.booleans()):
        columns[0, -1] = -1
    return weight, rows.T @ rows / len(rows), columns, draw(st.sampled_from([1e-6, 1e-3, 0.5]))


def error(weight: Tensor, gram: Tensor, gone: Tensor, ridge: float) -> float:
    """What a refit from scratch leaves, tr((W - V) H (W - V)ᵀ) over tr(W E[x xᵀ] Wᵀ)."""
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight, stays = weight.double(), torch.ones(len(gram), dtype=torch.bool)
    stays[gone[gone >= 0]] = False
    at = stays.nonzero().flatten()
    left = weight.clone()
    left[:, at] -= torch.linalg.solve(damped[at][:, at], damped[at] @ weight.T).T
    return ((left @ damped * left).sum() / (weight @ gram * weight).sum()).item()


@given(layers())
def test_increases_add_up_to_the_error_of_a_refit_from_scratch(
    layer: tuple[Tensor, Tensor, Tensor, float],
) -> None:
    weight, gram, columns, ridge = layer
    problem, total, gone = reader(weight, gram, columns, ridge), 0.0, []
    for channel in torch.randperm(len(columns), generator=torch.Generator().manual_seed(0)).tolist():
        total += problem.increases()[channel].item()
        problem.remove(channel)
        gone.append(channel)
        assert total == pytest.approx(error(weight, gram, columns[gone].flatten(), ridge), rel=1e-4, abs=1e-7)


@given(layers(), st.integers(1, 3))
def test_each_step_is_the_best_one_and_an_inverse_brought_up_to_date_late_changes_nothing(
    layer: tuple[Tensor, Tensor, Tensor, float], lazy: int
) -> None:
    weight, gram, columns, ridge = layer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "LAZY", lazy)
        order = eliminate([reader(weight, gram, columns, ridge)], len(columns), NONE.new_zeros(len(columns)))
    assert sorted(order) == list(range(len(columns)))
    for left in range(len(order), 1, -1):
        gone = order[left:]
        errors = [error(weight, gram, columns[[*gone, channel]].flatten(), ridge) for channel in order[:left]]
        assert errors[-1] <= min(errors) * (1 + 1e-4) + 1e-7


@given(layers(), st.sampled_from([1e-30, 1e-16, 1e-6, 1e16]), st.booleans(), st.booleans())
def test_inputs_of_any_size_dead_ones_and_copies_have_an_order(
    layer: tuple[Tensor, Tensor, Tensor, float], size: float, dead: bool, copied: bool
) -> None:
    weight, gram, columns, ridge = layer
    whole, count = (columns >= 0).all(0), len(columns)
    source = torch.arange(len(gram))
    source[columns[1, whole]] = columns[0, whole] if copied else columns[1, whole]
    gram = gram[source][:, source]
    if dead:
        gram[columns[-1, whole]], gram[:, columns[-1, whole]] = 0.0, 0.0

    def order(gram: Tensor) -> list[int]:
        return eliminate([reader(weight, gram, columns, ridge)], count, NONE.new_zeros(count))

    assert sorted(order(size**2 * gram)) == list(range(count))
    assert order(2.0**-100 * gram) == order(gram) == order(2.0**100 * gram)


@pytest.mark.parametrize("name", networks.NETS)
def test_every_network_has_orders_that_hold_each_position_once(name: str) -> None:
    model = networks.ready(networks.NETS[name]())
    graph = trace(model, networks.PAIR)
    found = orders(model, graph, collect(model, graph, pictures(), images=40, points=10, seed=0))
    assert [sorted(order.tolist()) for order in found] == [list(range(len(group))) for group in graph.groups]


@pytest.mark.parametrize("name", ["chain", "grouped", "flatten_linear", "residual", "concat", "shared"])
def test_layers_lose_less_than_with_the_order_by_magnitude(name: str) -> None:
    """Summed over all counts of a group and over its layers: each refitted by the product's own solve."""
    model = networks.ready(networks.NETS[name]())
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, pictures(80), images=80, points=ALL, seed=0)
    lost = {}
    for kind, found in {
        "elimination": orders(model, graph, moments),
        "magnitude": magnitude_orders(model, graph),
    }.items():
        lost[kind] = 0.0
        for group, order in zip(graph.groups, found, strict=True):
            for count, index in [(c, i) for c in range(1, len(group)) for i in group.layers]:
                layer = graph.layers[index]
                reads = ~np.isin(layer.reads, group.atoms[order[count:]])
                weight = model.get_parameter(f"{layer.name}.weight").detach()
                blocks = weight.flatten(1).unflatten(0, (layer.groups, -1))
                kept = torch.from_numpy(reads.reshape(layer.groups, -1).repeat(layer.taps, axis=1))
                for block, columns, gram in zip(blocks, kept, moments.grams[layer.name], strict=True):
                    at = columns.nonzero().flatten()
                    left = block.double().clone()
                    left[:, at] -= refit(block, gram, at, 1e-6).double()
                    whole = (block.double() @ gram * block.double()).sum()
                    lost[kind] += ((left @ gram * left).sum() / whole).item()
    assert lost["elimination"] < lost["magnitude"]


def test_a_transposed_convolution_is_judged_by_what_its_input_adds() -> None:
    """Channels of equal power: the one with the smallest weights goes first, whatever the sign."""
    model = networks.ready(networks.transposed())
    weight = model[5].weight.data  # (in, out, ...)
    weight.copy_(torch.tensor([-4.0, 3.0, 2.0, 1.0, -0.1]).view(5, 1, 1, 1).expand_as(weight))
    model[4].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, pictures(), images=40, points=ALL, seed=0)
    moments.grams["5"].copy_(torch.eye(5))
    assert orders(model, graph, moments)[2].tolist() == [0, 1, 2, 3, 4]


def test_a_layer_of_too_many_inputs_is_judged_without_a_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.ready(networks.flatten_linear())
    graph = trace(model, networks.PAIR)
    few = collect(model, graph, pictures(6), images=6, points=1, seed=0)  # 12 inputs, 6 rows
    few.rows["7"].uniform_(generator=torch.Generator().manual_seed(0))  # some of the channels are dead
    monkeypatch.setattr(elimination, "INVERTED", 11)
    x, weight = few.rows["7"][0].double(), model[7].weight.detach().double()
    lost = [(x[:, at : at + 4] @ weight[:, at : at + 4].T).square().sum().item() for at in (0, 4, 8)]
    assert orders(model, graph, few)[1].tolist() == np.argsort(-np.array(lost)).tolist()


def test_inputs_that_are_all_zero_have_an_order() -> None:
    weight, columns = (
        3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
        torch.arange(6)[:, None],
    )
    assert sorted(eliminate([reader(weight, torch.zeros(6, 6), columns)], 6, torch.zeros(6).double())) == [
        *range(6)
    ]


def test_dead_inputs_go_first() -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    problem = reader(torch.ones(2, 4), gram, torch.arange(4)[:, None], 1e-6)
    assert eliminate([problem], 4, torch.zeros(4).double())[2:] == [3, 1]
    nothing = reader(torch.ones(2, 4), torch.zeros(4, 4), torch.arange(4)[:, None], 1e-6)
    assert sorted(eliminate([nothing], 4, torch.zeros(4).double())) == [0, 1, 2, 3]


def test_orders_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    model, data = networks.ready(networks.chain()), pictures()
    graph = trace(model, networks.PAIR)
    sampling = {"images": 40, "points": 10, "seed": 0}
    found = orders_cached(model, graph, data, **sampling)
    fresh = orders(model, graph, collect_cached(model, graph, data, **sampling))
    monkeypatch.setattr(elimination, "orders", None)  # calling it again would fail
    again = orders_cached(model, graph, data, **sampling)
    for one, other, third in zip(found, fresh, again, strict=True):
        assert one.tolist() == other.tolist() == third.tolist()


def test_the_damping_is_that_of_a_layer_with_all_its_inputs() -> None:
    """Few rows: without damping each of six channels could be had from the others for nothing."""
    model = networks.ready(nn.Sequential(networks.conv(2, 6), nn.Tanh(), networks.head(6)))
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, pictures(3), images=3, points=1, seed=0)
    assert damping(6, 3) == 1.0
    assert np.isfinite(orders(model, graph, moments)[0]).all()
