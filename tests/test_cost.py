"""Costs against hand-computed values, torch's own counter, and published networks."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, SHAPE, network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc_env import zoo
from amc_env.compressors.surgery import cut
from amc_env.cost import RESOURCES, Macs, Params, WidthTable, dense_widths, macs, mask_widths, weights
from amc_env.graph.trace import trace
from amc_env.plan import Plan


@cache
def traced(name):
    model = network(name)
    return model, trace(model, SHAPE)


def first_layer(*modules, shape=(6, 8, 8)):
    """The layer of the first module, whose image is what it reads."""
    return trace(nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape).layers[0]


@pytest.mark.parametrize(
    ("module", "dense", "cut_to", "left"),
    [
        # 3 * 3 taps, 6 inputs, 10 outputs, 8 * 8 positions; then 4 inputs and 5 outputs
        (nn.Conv2d(6, 10, 3, padding=1), (64 * 9 * 6 * 10, 9 * 6 * 10), (4, 5), (64 * 9 * 4 * 5, 9 * 4 * 5)),
        # stride 2 without padding: 3 * 3 positions
        (nn.Conv2d(6, 10, 3, stride=2), (9 * 9 * 60, 9 * 60), (1, 1), (81, 9)),
        # 3 x 1 taps, dilated: 4 * 8 positions
        (nn.Conv2d(6, 10, (3, 1), dilation=2), (32 * 3 * 60, 3 * 60), (2, 3), (32 * 3 * 6, 18)),
        (nn.Conv2d(6, 10, 1), (64 * 60, 60), (3, 7), (64 * 21, 21)),  # pointwise
        # 2 groups: each output reads 3 inputs; then 4 inputs in 2 groups
        (nn.Conv2d(6, 10, 3, padding=1, groups=2), (64 * 9 * 3 * 10, 270), (4, 6), (64 * 9 * 2 * 6, 108)),
        # depthwise: each output reads the one input that it stands on
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (64 * 9 * 6, 54), (4, 4), (64 * 9 * 4, 36)),
        # transposed: the kernel is applied at each of the 8 * 8 input positions
        (nn.ConvTranspose2d(6, 10, 2, stride=2), (64 * 4 * 60, 4 * 60), (3, 5), (64 * 4 * 15, 60)),
    ],
    ids=["standard", "strided", "dilated", "pointwise", "grouped", "depthwise", "transposed"],
)
def test_a_convolution_by_hand(module, dense, cut_to, left):
    layer = first_layer(module)
    assert (macs(layer, layer.c_in, layer.c_out), weights(layer, layer.c_in, layer.c_out)) == dense
    assert (macs(layer, *cut_to), weights(layer, *cut_to)) == left


def test_a_linear_layer_by_hand():
    layer = trace(nn.Sequential(nn.Flatten(), nn.Linear(384, 10)), (6, 8, 8)).layers[0]
    assert (macs(layer, 384, 10), weights(layer, 384, 10)) == (3840, 3840)
    assert (macs(layer, 100, 10), weights(layer, 100, 10)) == (1000, 1000)


def test_a_whole_network_by_hand():
    """The chain: 1 -> 8 -> 12 (stride 2) -> 16 -> 4 with 5 of 8, 6 of 12 and 9 of 16 channels left."""
    _, graph = traced("chain")
    widths = WidthTable(graph, [np.arange(len(group)) for group in graph.groups]).widths([5, 6, 9])
    by_layer = [64 * 9 * 1 * 5, 16 * 9 * 5 * 6, 16 * 9 * 6 * 9, 9 * 4]
    assert Macs(graph).by_layer(widths).tolist() == by_layer
    assert int(Macs(graph)(widths)) == sum(by_layer)
    params = 9 * 5 + 9 * 30 + 9 * 54 + 36 + 2 * (5 + 6 + 9) + 4  # weights, batch norms, the classifier's bias
    assert int(Params(graph)(widths)) == params


@st.composite
def plans(draw):
    """A tiny network and any plan for it, undecided groups and single channels included."""
    name = draw(st.sampled_from(sorted(NETWORKS)))
    _, graph = traced(name)
    kept = []
    for group in graph.groups:
        positions = st.sets(st.integers(0, len(group) - 1), min_size=1)
        kept.append(draw(st.none() | positions.map(lambda found: tuple(sorted(found)))))
    return name, Plan(graph.hash, tuple(kept))


@settings(max_examples=25)
@given(plans())
def test_macs_and_params_are_those_of_the_cut_network_counted_by_torch(case):
    name, plan = case
    model, graph = traced(name)
    small = cut(model, graph, plan).eval()
    with FlopCounterMode(display=False) as counter:
        small(torch.zeros(1, *SHAPE))
    widths = mask_widths(graph, graph.mask(plan.kept))
    assert int(Macs(graph)(widths)) == counter.get_total_flops() // 2
    assert int(Params(graph)(widths)) == sum(parameter.numel() for parameter in small.parameters())


@given(plans(), st.randoms(use_true_random=False))
def test_the_table_of_widths_equals_the_mask_of_atoms(case, random):
    name, plan = case
    _, graph = traced(name)
    orders, counts = [], []
    for group, kept in zip(graph.groups, plan.kept, strict=True):
        first = list(range(len(group)) if kept is None else kept)
        rest = sorted(set(range(len(group))) - set(first))
        random.shuffle(rest)
        orders.append(np.array(first + rest))
        counts.append(len(first))
    table, expected = WidthTable(graph, orders), mask_widths(graph, graph.mask(plan.kept))
    for at, group in enumerate(graph.groups):
        choices = np.arange(1, len(group) + 1)
        column = table.column(counts, at, choices)
        assert column.reads.shape == (len(group), len(graph.layers))
        for row, choice in enumerate(choices):
            one = table.widths([*counts[:at], choice, *counts[at + 1 :]])
            assert column.reads[row].tolist() == one.reads.tolist()
            assert column.writes[row].tolist() == one.writes.tolist()
            assert column.entries[row] == one.entries
    found = table.widths(counts)
    assert found.reads.tolist() == expected.reads.tolist()
    assert found.writes.tolist() == expected.writes.tolist()
    assert found.entries == expected.entries


@given(plans(), st.sampled_from(sorted(RESOURCES)), st.data())
def test_no_cost_falls_when_a_channel_is_added(case, resource, data):
    name, plan = case
    _, graph = traced(name)
    cost = RESOURCES[resource](graph)
    before = int(cost(mask_widths(graph, graph.mask(plan.kept))))
    group = data.draw(st.sampled_from(graph.groups))
    kept = plan.kept[group.index] or tuple(range(len(group)))
    more = tuple(sorted({*kept, data.draw(st.integers(0, len(group) - 1))}))
    after = int(cost(mask_widths(graph, graph.mask(plan.with_group(group.index, more).kept))))
    assert (after > before) if more != kept else (after == before)


# input channels of each layer that is not depthwise, as released (mit-han-lab/amc and amc-models)
V1_HALF_FLOPS = (3, 24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)
V1_HALF_TIME = (3, 16, 48, 88, 80, 192, 168, 336, 360, 360, 352, 352, 368, 768, 680)
V2_70_FLOPS = (
    3, 24, 16, 72, 24, 104, 24, 104, 32, 136, 32, 136, 32, 136, 64, 272, 64, 272, 64, 272, 64, 272,
    96, 408, 96, 400, 96, 400, 160, 712, 160, 720, 160, 712, 248, 848,
)  # fmt: skip

# name, widths, MACs and parameters that we count (exact), millions of MACs in the README of amc-models
PUBLISHED = [
    ("mobilenet_v1", None, 568_740_352, 4_231_976, 569),
    # their 285 M is what is left without the first convolution and the classifier
    ("mobilenet_v1", V1_HALF_FLOPS, 293_870_000, 2_408_232, 285),
    ("mobilenet_v1", V1_HALF_TIME, 273_976_912, 2_279_816, 272),
    ("mobilenet_v2", None, 300_774_272, 3_504_872, 300),
    ("mobilenet_v2", V2_70_FLOPS, 210_620_528, 2_330_272, 210),
]


@cache
def imagenet(name, width=1.0):
    return trace(zoo.build(name, classes=1000, in_channels=3, width=width, small=False), (3, 224, 224))


@pytest.mark.parametrize(("name", "released", "exact", "params", "published"), PUBLISHED)
def test_the_published_mobilenets_are_plans_of_ours(name, released, exact, params, published):
    graph = imagenet(name)
    counts = [len(group) for group in graph.groups]
    if released is not None:
        pointwise = [i for i, layer in enumerate(graph.layers) if layer.kind != "depthwise"]
        width_of = dict(zip(pointwise, released, strict=True))
        for group in graph.groups:
            (counts[group.index],) = {width_of[layer] for layer in group.layers}  # shared groups agree
    widths = WidthTable(graph, [np.arange(len(group)) for group in graph.groups]).widths(counts)
    assert (int(Macs(graph)(widths)), int(Params(graph)(widths))) == (exact, params)
    assert exact / 1e6 == pytest.approx(published, rel=0.035 if released is V1_HALF_FLOPS else 0.01)


def test_a_width_multiplier_is_a_plan_too():
    """MobileNet V1 at 0.75 costs what a plan costs that keeps three quarters of each group: 325.4 M."""
    dense, narrow = imagenet("mobilenet_v1"), imagenet("mobilenet_v1", 0.75)
    table = WidthTable(dense, [np.arange(len(group)) for group in dense.groups])
    widths = table.widths([3 * len(group) // 4 for group in dense.groups])
    whole = dense_widths(narrow)
    assert int(Macs(dense)(widths)) == int(Macs(narrow)(whole)) == 325_400_448
    assert int(Params(dense)(widths)) == int(Params(narrow)(whole)) == 2_585_560
