"""Properties of the bound for any actions: never above the target, and as much as it allows."""

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import CLASSES, NETWORKS, SHAPE, network
from torch import nn

from amc_env.budget import Budget, BudgetError, snap
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.cost import RESOURCES, WidthPrices, mask_widths
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace


@cache
def traced(name):
    model = network(name)
    return model, trace(model, SHAPE)


@dataclass(frozen=True)
class Case:
    """A network, what is limited, and a budget that can be met."""

    graph: Graph
    resource: str
    target: float
    compressor: Channels

    @cached_property
    def budget(self) -> Budget:
        return Budget(self.compressor, {self.resource: self.target})

    def price(self, counts) -> int:
        """The cost of these counts, from a mask of atoms: not the way in which the budget counts."""
        kept = [order[:count] for order, count in zip(self.compressor.orders, counts, strict=True)]
        return int(RESOURCES[self.resource](self.graph)(mask_widths(self.graph, self.graph.mask(kept))))


def make(name, resource, target, round_to=1, floor=0.2):
    model, graph = traced(name)
    return Case(
        graph,
        resource,
        target,
        Channels(graph, magnitude_orders(model, graph), round_to=round_to, floor=floor),
    )


@st.composite
def cases(draw):
    case = make(
        draw(st.sampled_from(sorted(NETWORKS))),
        draw(st.sampled_from(sorted(RESOURCES))),
        1.0,
        draw(st.sampled_from([1, 2, 8])),
        draw(st.sampled_from([0.05, 0.2, 0.5])),
    )
    lowest, dense = (case.price([choices[at] for choices in case.compressor.choices]) for at in (0, -1))
    return replace(case, target=draw(st.floats(lowest / dense + 1e-6, 1.0)))


def spend(budget, asks):
    """Ask each group for a keep ratio; what each is given."""
    decided = []
    for _, ask in zip(budget.choices, asks, strict=False):
        decided.append(budget.take(decided, ask)[0])
    return decided


def asked(budget, group, keep):
    """The largest count of a group that is at most a fraction of it."""
    return int(snap(budget.choices[group], np.array(keep * budget.dense_counts[group])))


asks_ = st.lists(st.floats(0, 1), min_size=8, max_size=8)


@given(cases(), asks_)
def test_whatever_is_asked_the_target_holds_to_the_unit(case, asks):
    budget = case.budget
    decided = spend(budget, asks)
    assert case.price(decided) <= Fraction(str(case.target)) * budget.dense
    for count, choices, ask in zip(decided, budget.choices, asks, strict=False):
        assert count in choices  # so no less than the floor
        assert count <= max(ask * choices[-1] + 1e-3, choices[0])


@given(cases())
def test_who_asks_for_everything_is_left_no_room_for_one_more_step_anywhere(case):
    budget = case.budget
    decided = spend(budget, [1.0] * 8)
    for group, choices in enumerate(budget.choices):
        if decided[group] < choices[-1]:
            one_more = decided.copy()
            one_more[group] = int(choices[np.searchsorted(choices, decided[group]) + 1])
            assert case.price(one_more) > budget.limit


@given(cases(), asks_, st.integers(0, 7))
def test_the_bound_is_the_largest_count_after_which_the_floors_still_fit(case, asks, group):
    budget = case.budget
    group %= len(budget.choices)
    decided = spend(budget, asks)[:group]
    floors = [int(choices[0]) for choices in budget.choices[group + 1 :]]
    fitting = [c for c in budget.choices[group] if case.price([*decided, c, *floors]) <= budget.limit]
    assert budget.affordable(decided)[-1] == fitting[-1]


@given(cases(), asks_, st.integers(0, 7))
def test_the_share_is_the_largest_ratio_that_all_the_rest_can_be_given(case, asks, group):
    budget = case.budget
    group %= len(budget.choices)
    decided = spend(budget, asks)[:group]
    share = budget.share(decided)

    def uniform(keep):
        rest = [asked(budget, g, keep) for g in range(group, len(budget.choices))]
        return case.price(decided + rest)

    assert 0 < share <= 1
    assert uniform(share) <= budget.limit
    ratios = sorted({c / choices[-1] for choices in budget.choices for c in choices})
    larger = [ratio for ratio in ratios if ratio > share]
    assert not larger or uniform(larger[0]) > budget.limit


@given(cases())
def test_a_uniform_policy_is_never_bounded_and_its_share_never_falls(case):
    budget = case.budget
    decided, first = [], budget.share([])
    last = first
    for group in range(len(budget.choices)):
        count = asked(budget, group, first)
        assert count <= budget.affordable(decided)[-1]
        decided.append(count)
        share = budget.share(decided)
        assert share >= last
        last = share


@given(cases(), st.floats(0, 1))
def test_a_larger_target_never_gives_a_smaller_share(case, more):
    budget = case.budget
    wider = replace(case, target=min(1.0, case.target + more)).budget
    assert wider.share([]) >= budget.share([])
    assert wider.affordable([])[-1] >= budget.affordable([])[-1]


class Priced:
    """A compressor with prices of its own; counts other than its own are of groups that they end with."""

    def __init__(self, compressor, prices, choices=None):
        self.graph, self.orders, self.choices = compressor.graph, compressor.orders, compressor.choices
        self.choose, self._prices = compressor.choose, prices
        if choices is not None:
            self.graph = SimpleNamespace(groups=[range(own[-1]) for own in choices])
            self.choices = choices

    def prices(self, resource):
        return self._prices[resource]


class Listed:
    """Prices of each group's counts, and of pairs of groups' counts, from lists: a measured table.

    Args:
        single: of each group a cost for each count from 0.
        joint: by (group, later group) a table of costs that come on top.
    """

    unit, pairwise = "ns", True

    def __init__(self, single, joint=None):
        self.single = [np.array(each, np.int64) for each in single]
        self.joint = {pair: np.array(table, np.int64) for pair, table in (joint or {}).items()}
        self.pairs = tuple(self.joint)

    def __call__(self, counts):
        counts = np.asarray(counts)
        total = sum(each[counts[..., g]] for g, each in enumerate(self.single))
        return total + sum(table[counts[..., a], counts[..., b]] for (a, b), table in self.joint.items())

    def column(self, counts, group, choices):
        plans = np.tile(np.asarray(counts), (len(choices), 1))
        plans[:, group] = choices
        return self(plans)


class OwnWeights:
    """Each decision costs the weights that read it, whatever the others are: the fine-grained case."""

    unit, bilinear = "weights", True

    def __init__(self, graph):
        self.each = np.array([layer.taps * layer.c_out for layer in graph.layers])
        self.each[0] = 0  # the image is no decision

    def __call__(self, widths):
        return (widths.reads * self.each).sum(-1)


@cache
def three_of_ten():
    """Three decisions of ten channels; the layers that read them have 100, 900 and 40 weights."""
    model = nn.Sequential(
        nn.Conv2d(1, 10, 1), nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, CLASSES),
    )  # fmt: skip
    graph = trace(model, SHAPE)
    compressor = Channels(graph, magnitude_orders(model, graph), round_to=1, floor=0.2)
    return Priced(compressor, {"weights": WidthPrices(compressor.widths, OwnWeights(graph))})


WEIGHTS, A_MAX = (100, 900, 40), Fraction(8, 10)


def algorithm_1(asked, alpha):
    """The printed lines 4 to 8, in sparsity, with each action rounded up to whole channels of ten."""
    reduced, actions = Fraction(0), []
    for t, action in enumerate(asked):
        action = min(action, A_MAX)
        duty = alpha * sum(WEIGHTS) - A_MAX * sum(WEIGHTS[t + 1 :]) - reduced
        action = Fraction(math.ceil(max(action, duty / WEIGHTS[t]) * 10), 10)
        reduced += action * WEIGHTS[t]
        actions.append(action)
    return actions


def test_algorithm_1_of_the_paper_by_hand():
    """Half of 1040 weights must go, and the agent offers none of them.

    t = 0: duty = 520 - 0.8 * 940 < 0: nothing goes. t = 1: duty = 520 - 0.8 * 40 = 488 of 900, so 6 of 10
    channels go, 540 weights. t = 2: duty = 520 - 540 < 0: nothing goes.
    """
    budget = Budget(three_of_ten(), {"weights": 0.5})
    assert budget.dense == 1040
    assert spend(budget, [1.0, 1.0, 1.0]) == [10, 4, 10]
    assert algorithm_1([0, 0, 0], Fraction(1, 2)) == [0, Fraction(6, 10), 0]


@given(st.lists(st.integers(0, 10), min_size=3, max_size=3), st.integers(0, 80))
def test_where_costs_are_independent_the_bound_is_algorithm_1(tenths, percent):
    asked = [Fraction(tenth, 10) for tenth in tenths]
    budget = Budget(three_of_ten(), {"weights": (100 - percent) / 100})
    ours = spend(budget, [float(1 - sparsity) for sparsity in asked])
    paper = algorithm_1(asked, Fraction(percent, 100))
    assert ours == [int(10 * (1 - action)) for action in paper]


@pytest.mark.parametrize("resource", sorted(RESOURCES))
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_target_below_the_floor_names_the_lowest_one_and_that_works(name, resource):
    with pytest.raises(BudgetError, match="below the smallest network") as error:
        _ = make(name, resource, 0.001).budget
    lowest = float(re.search(r"lowest possible target is ([\d.]+),", str(error.value))[1])
    budget = make(name, resource, lowest).budget
    assert spend(budget, [0.0] * 8) == [choices[0] for choices in budget.choices]
    with pytest.raises(BudgetError, match=f"lowest possible target is {lowest}"):
        _ = make(name, resource, lowest - 1e-4).budget


@pytest.mark.parametrize("target", [0, 0.0, -0.5, 1.0001, math.nan, math.inf])
def test_a_target_outside_of_0_to_1_is_an_error(target):
    with pytest.raises(BudgetError, match=r"in \(0, 1\], not"):
        _ = make("chain", "macs", target).budget


def test_the_whole_target_keeps_the_whole_network():
    budget = make("residual", "macs", 1.0).budget
    assert budget.share([]) == 1
    assert spend(budget, [1.0] * 8) == list(budget.dense_counts)


def test_a_target_is_the_decimal_that_was_written():
    """0.29 * 100 is 28.999... in binary; 29 of 100 is what was meant."""
    hundred = Priced(three_of_ten(), {"weights": Listed([np.arange(11) * 10])}, [np.arange(1, 11)])
    assert Budget(hundred, {"weights": 0.29}).limit == 29
    assert Budget(hundred, {"weights": 0.289}).limit == 28


def test_counts_survive_float32():
    """A keep ratio of exactly k channels, rounded to float32, is still k channels."""
    for size in (3, 7, 10, 24, 48, 96, 1000, 4096):
        counts = np.arange(1, size + 1)
        np.testing.assert_array_equal(
            snap(counts, (counts / size).astype(np.float32).astype(float) * size), counts
        )


def test_snap_by_hand():
    choices = np.array([4, 8, 12, 16])
    keeps = np.array([0.0, 0.24, 0.25, 0.49, 0.5, 0.7499, 0.75, 0.99, 1.0])
    assert snap(choices, keeps * 16).tolist() == [4, 4, 4, 4, 8, 8, 12, 12, 16]
