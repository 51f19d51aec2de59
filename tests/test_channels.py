"""Which channels are kept first, and which counts may be kept."""

from collections.abc import Callable

import networks
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import conv, head
from torch import nn

from amc_env.compressors.channels import Channels, allowed, magnitude, magnitude_orders
from amc_env.compressors.surgery import cut
from amc_env.cost import mask_widths
from amc_env.graph.structure import Graph, Group
from amc_env.graph.trace import trace
from amc_env.plan import Plan, PlanError


def group(atoms: int, per_atom: int = 1) -> Group:
    return Group(0, np.arange(atoms), (0,), atoms * per_atom, per_atom)


def traced(build: Callable[[], nn.Module]) -> tuple[nn.Module, Graph]:
    model = networks.ready(build())
    return model, trace(model, networks.PAIR)


def set_columns(module: nn.Module, sums: list[float], sign: float = 1.0) -> None:
    """Weights whose absolute sum over everything that reads input i is ``sums[i]``."""
    weight = module.weight.data
    weight.copy_(sign * torch.tensor(sums).view(1, -1, *[1] * (weight.ndim - 2)))
    weight /= weight[:, 0].numel()


def test_magnitude_of_one_reader_by_hand() -> None:
    model, graph = traced(networks.chain)
    set_columns(model[3], [3, 1, 2, 6, 0, 6], sign=-1)
    scores = magnitude(model, graph, graph.groups[0])
    np.testing.assert_allclose(scores, np.array([3, 1, 2, 6, 0, 6]) / 3, rtol=1e-6)  # 3 is the mean
    assert Channels(graph, magnitude_orders(model, graph)).orders[0].tolist() == [
        3,
        5,
        0,
        2,
        1,
        4,
    ]  # the first of equals first


def test_magnitudes_of_several_readers_are_added_relative_to_their_means() -> None:
    model, graph = traced(networks.residual)
    set_columns(model.first, [10, 0, 0, 0, 0, 50])
    set_columns(model.head[2], [0.1, 0.1, 0.4, 0, 0, 0])
    scores = magnitude(model, graph, graph.groups[0])
    np.testing.assert_allclose(scores, [1 + 1, 1, 4, 0, 0, 5], rtol=1e-6)


def test_magnitude_of_a_grouped_convolution_by_hand() -> None:
    """Filters 0 to 2 read channels 0 and 1, and so on; position p holds channels p, p + 2, p + 4, p + 6."""
    model, graph = traced(networks.grouped)
    weight = model[2].weight.data
    weight.zero_()
    weight[0, 0, 0, 0], weight[3, 1, 1, 1], weight[11, 1, 2, 2] = 1, -2, 3
    np.testing.assert_allclose(magnitude(model, graph, graph.groups[0]), [1 / 3, 5 / 3], rtol=1e-6)


def test_magnitude_after_flatten_adds_up_the_positions() -> None:
    model, graph = traced(networks.flatten_linear)
    model[7].weight.data.zero_()
    model[7].weight.data[2, [0, 3, 4, 11]] = torch.tensor([1.0, 2.0, -3.0, 6.0])
    np.testing.assert_allclose(magnitude(model, graph, graph.groups[1]), [3 / 4, 3 / 4, 6 / 4], rtol=1e-6)


def test_magnitude_of_a_transposed_convolution_by_hand() -> None:
    model, graph = traced(networks.transposed)
    weight = model[5].weight.data  # (in, out, ...)
    weight.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]).view(5, 1, 1, 1).expand_as(weight))
    assert Channels(graph, magnitude_orders(model, graph)).orders[2].tolist() == [0, 1, 2, 3, 4]


def test_weights_that_are_all_zero_give_an_order() -> None:
    model, graph = traced(networks.chain)
    model[3].weight.data.zero_()
    assert Channels(graph, magnitude_orders(model, graph)).orders[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_kept_positions_are_ascending() -> None:
    model, graph = traced(networks.chain)
    set_columns(model[3], [3, 1, 2, 6, 0, 6])
    channels = Channels(graph, magnitude_orders(model, graph))
    assert [channels.choose(0, count) for count in (1, 2, 4)] == [(3,), (3, 5), (0, 2, 3, 5)]


@pytest.mark.parametrize(
    ("atoms", "per_atom", "round_to", "floor", "expected"),
    [
        (128, 1, 8, 0.2, [32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128]),  # 25.6 is the floor
        (64, 1, 8, 0.5, [32, 36, 40, 44, 48, 52, 56, 60, 64]),  # 8 would leave 8 choices, 4 leaves 16
        (16, 1, 8, 0.2, list(range(4, 17))),
        (10, 1, 8, 0.01, list(range(1, 11))),  # never zero
        (10, 1, 1, 1.0, [10]),
        (32, 4, 8, 0.5, list(range(16, 33, 2))),  # two atoms of four channels
        (4, 32, 8, 0.2, [1, 2, 3, 4]),  # an atom of 32 channels is a multiple by itself
        (130, 1, 8, 0.9, list(range(118, 131, 2))),  # 8 and 4 do not divide 130
        (255, 1, 8, 0.99, [253, 254, 255]),  # no power of two divides 255
    ],
)
def test_counts(atoms: int, per_atom: int, round_to: int, floor: float, expected: list[int]) -> None:
    assert allowed(group(atoms, per_atom), round_to, floor).tolist() == expected


@given(
    st.integers(2, 600),
    st.sampled_from([1, 2, 3, 4, 8, 32]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.floats(0.001, 1),
)
def test_counts_are_rounded_wherever_that_leaves_sixteen(
    atoms: int, per_atom: int, round_to: int, floor: float
) -> None:
    counts = allowed(group(atoms, per_atom), round_to, floor)
    assert counts[0] >= max(1, floor * atoms - 1e-6)
    assert counts[-1] == atoms
    assert (np.diff(counts) > 0).all()
    wide = atoms * per_atom
    if wide // round_to >= 16 and wide % round_to == 0 and (round_to % per_atom == 0):
        assert (counts * per_atom % round_to == 0).all()


def test_every_layer_of_a_cut_network_is_rounded() -> None:
    model, graph = traced(
        lambda: nn.Sequential(conv(2, 128), nn.ReLU(), conv(128, 256), nn.ReLU(), head(256))
    )
    channels, plan = Channels(graph, magnitude_orders(model, graph)), Plan.dense(graph)
    for index, choices in enumerate(channels.choices):
        plan = plan.with_group(index, channels.choose(index, int(choices[3])))
    widths = mask_widths(graph, graph.mask(plan.kept))
    assert (widths.writes[:-1] % 8 == 0).all()
    assert (widths.reads[1:] % 8 == 0).all()
    small = cut(model, graph, plan)
    assert [m.out_channels for m in small if isinstance(m, nn.Conv2d)] == widths.writes[:-1].tolist()


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.1])
def test_a_floor_outside_its_range_is_refused(floor: float) -> None:
    model, graph = traced(networks.chain)
    with pytest.raises(ValueError, match=f"floor is {floor}, it is at"):
        Channels(graph, magnitude_orders(model, graph), floor=floor)


@pytest.mark.parametrize("round_to", [0, -8])
def test_rounding_to_nothing_is_refused(round_to: int) -> None:
    model, graph = traced(networks.chain)
    with pytest.raises(ValueError, match=f"round_to is {round_to}, it is at least 1"):
        Channels(graph, magnitude_orders(model, graph), round_to=round_to)


class Branches(nn.Module):
    """Two branches of six and two channels, side by side, are added to a third of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.third = conv(2, 6), conv(2, 2), conv(2, 8)
        self.head = head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.wide(x), self.narrow(x)], 1) + self.third(x))


def test_a_layer_that_holds_a_part_of_a_group_keeps_its_best_channel() -> None:
    model, graph = traced(Branches)
    set_columns(model.head[-1], [9, 8, 7, 6, 5, 4, 1, 2])  # the narrow branch is worth least
    channels = Channels(graph, magnitude_orders(model, graph), round_to=1, floor=0.1)
    assert channels.orders[0].tolist() == [0, 7, 1, 2, 3, 4, 5, 6]
    assert channels.choices[0][0] == 2
    cut(model, graph, Plan.dense(graph).with_group(0, channels.choose(0, 2)))
    with pytest.raises(PlanError, match=r"layer narrow.* is left without channels"):
        cut(model, graph, Plan.dense(graph).with_group(0, (0, 1)))
