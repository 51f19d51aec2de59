"""The bound where costs may fall when a channel is added, and where several limits hold."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_budget import Listed, Priced, asks_, make, spend, three_of_ten

from agents.lattice import Lattice
from amc_env.budget import Budget, BudgetError
from amc_env.cost import RESOURCES, WidthPrices


@st.composite
def measured(draw, limits=1):
    """A compressor of three groups of four counts whose costs go up and down, and targets that can be met."""
    entries = st.integers(1, 60)
    listed = []
    for _ in range(limits):
        single = draw(st.lists(st.lists(entries, min_size=5, max_size=5), min_size=3, max_size=3))
        table = st.lists(st.lists(st.integers(0, 20), min_size=5, max_size=5), min_size=5, max_size=5)
        listed.append(Listed(single, {(0, 1): draw(table), (1, 2): draw(table)}))
    prices = {f"r{i}": each for i, each in enumerate(listed)}
    compressor = Priced(three_of_ten(), prices, [np.arange(1, 5)] * 3)
    targets = {f"r{i}": draw(st.floats(0.05, 1.0)) for i in range(limits)}
    try:
        return compressor, targets, Budget(compressor, targets)
    except BudgetError:
        return compressor, dict.fromkeys(targets, 1.0), None


def fits(compressor, targets, plan):
    """Whether a plan is within every target, in exact fractions."""
    return all(
        int(prices(plan)) <= Fraction(str(target)) * int(prices([4, 4, 4]))
        for prices, target in ((compressor.prices(name), target) for name, target in targets.items())
    )


@given(st.one_of(measured(1), measured(2)), asks_)
def test_costs_that_fall_the_largest_affordable_count_is_searched_among_all(case, asks):
    """Against all counts, one by one: the bound, what is taken, and the budget at the end."""
    compressor, targets, budget = case
    if budget is None:
        return
    decided = []
    for group, ask in zip(range(3), asks, strict=False):
        rest = budget.cheapest[group + 1 :].tolist()
        able = [count for count in range(1, 5) if fits(compressor, targets, [*decided, count, *rest])]
        assert budget.affordable(decided)[-1] == able[-1]
        below = [count for count in able if count <= 4 * ask + 1e-3]
        taken = budget.take(decided, ask)[0]
        assert taken == (below[-1] if below else able[0])
        decided.append(taken)
    assert fits(compressor, targets, decided)


@given(st.one_of(measured(1), measured(2)))
def test_costs_that_fall_the_share_is_the_largest_uniform_ratio_that_fits(case):
    compressor, targets, budget = case
    if budget is None:
        return
    uniform = [k for k in range(1, 5) if fits(compressor, targets, [k] * 3)]
    assert budget.share([]) == (uniform[-1] / 4 if uniform else 0.25)


@given(measured(2))
def test_costs_that_fall_are_described_exactly(case):
    *_, budget = case
    if budget is None:
        return
    lattice = Lattice(budget.keeps, budget.cost_tables)
    plans = np.stack([axis.ravel() for axis in np.indices((4, 4, 4))], axis=1)
    for limit, described in zip(budget.limits, lattice.limits, strict=True):
        np.testing.assert_array_equal(described.cost(plans), limit.prices(plans + 1))
        assert described.most == limit.most
    np.testing.assert_array_equal(lattice.within(plans), budget.within(plans + 1))


def test_a_step_that_falls_by_hand():
    """Three channels take longer than four: with 10 to spend the bound is 4, and who asks for 3 gets 2."""
    listed = Listed([[0, 4, 6, 12, 8], [0, 5, 2, 3, 12]])
    one = Priced(three_of_ten(), {"ns": listed}, [np.arange(1, 5)] * 2)
    budget = Budget(one, {"ns": 0.5})
    assert (budget.dense, budget.limit, budget.cheapest.tolist()) == (20, 10, [1, 2])
    assert budget.affordable([]).tolist() == [1, 2, 4]
    assert (budget.affordable([])[-1], budget.take([], 0.75)[0], budget.take([], 1.0)[0]) == (4, 2, 4)
    assert budget.affordable([4]).tolist() == [2]
    assert budget.take([4], 0.25)[0] == 2  # one channel alone takes 5: dearer than two


def test_counts_that_end_below_the_whole_group_are_fractions_of_it():
    """The dense network costs 90 and is no plan; the largest plan costs 40, and two of nine steps 20."""
    never_whole = Priced(three_of_ten(), {"bits": Listed([[0, 10, 20, 30, 40, 0, 0, 0, 0, 90]])})
    never_whole.graph, never_whole.choices = SimpleNamespace(groups=[range(9)]), [np.arange(1, 5)]
    budget = Budget(never_whole, {"bits": 0.25})
    assert (budget.dense, budget.limit, budget.keeps) == (90, 22, ((1 / 9, 2 / 9, 3 / 9, 4 / 9),))
    assert (budget.share([]), budget.take([], 1.0)[0], budget.spent([])) == (2 / 9, 2, 1.0)
    assert Budget(never_whole, {"bits": 1.0}).take([], 1.0)[0] == 4


def test_every_limit_holds_and_the_tighter_one_binds():
    case = make("residual", "macs", 0.5)
    for targets in ({"macs": 0.5, "params": 0.4}, {"params": 0.4, "macs": 0.5}):
        both = Budget(case.compressor, targets)
        decided = spend(both, [1.0] * 8)
        spent = {name: Fraction(int(case.compressor.prices(name)(decided))) for name in RESOURCES}
        whole = {name: int(case.compressor.prices(name)(both.dense_counts)) for name in RESOURCES}
        assert spent["macs"] <= Fraction("0.5") * whole["macs"]
        assert spent["params"] <= Fraction("0.4") * whole["params"]
    assert not Budget(case.compressor, {"params": 0.4}).within(spend(case.budget, [1.0] * 8))
    with pytest.raises(BudgetError, match=r"target 0.001 of [\d,]+ parameters is below the smallest"):
        Budget(case.compressor, {"macs": 0.5, "params": 0.001})


def test_where_layers_join_three_groups_the_costs_say_that_they_are_an_estimate():
    """Macs are sums of products even there; what is looked up by both widths of a layer is not."""
    case = make("concat", "macs", 0.5)

    class Looked:
        unit, bilinear = "ns", False

        def __call__(self, widths):
            return (widths.reads * widths.writes).sum(-1)

    exact = {}
    for name, resource in (("macs", RESOURCES["macs"](case.graph)), ("ns", Looked())):
        exact[name] = WidthPrices(case.compressor.widths, resource).pairwise
    assert exact == {"macs": True, "ns": False}
