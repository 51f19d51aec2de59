"""The lattice of plans within a budget: costs, filling, neighbours and mutations."""

import itertools

import numpy as np
import pytest

from agents.lattice import Lattice
from amc_env.tabular import TabularEnv

HALVES = ((0.5, 1.0),) * 3
# Three decisions of widths 1 or 2: a layer of cost 3 w0 w1, one of 5 w1 w2, and 2 for each of w0.
COSTS = {
    "limit": 20,
    "constant": 10,
    "single": ((0, 5), (0, 8), (0, 5)),
    "pairs": {(0, 1): ((0, 0), (0, 3)), (1, 2): ((0, 0), (0, 5))},
}
LATTICE = Lattice(HALVES, COSTS)
EVERY = np.array(list(itertools.product((0, 1), repeat=3)))


def env_of(target: float = 0.3, *, scale: str = "absolute") -> TabularEnv:
    return TabularEnv("digits", target=target, scale=scale)


def test_costs_by_hand() -> None:
    widths = EVERY + 1
    by_hand = 3 * widths[:, 0] * widths[:, 1] + 5 * widths[:, 1] * widths[:, 2] + 2 * widths[:, 0]
    np.testing.assert_array_equal(LATTICE.limits[0].cost(EVERY), by_hand)
    assert LATTICE.within(EVERY).tolist() == (by_hand <= 20).tolist()


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_the_costs_in_the_info_are_exact(resource: str) -> None:
    env = TabularEnv("fashion", target=0.4, resource=resource)
    _, info = env.reset()
    lattice = Lattice(info["choices"], info["costs"])
    plans = np.array(list(itertools.product(range(8), repeat=5)))
    np.testing.assert_array_equal(lattice.limits[0].cost(plans), env.table.columns[resource].ravel())
    assert lattice.limits[0].most == env.budget.limit


def test_the_uniform_plan_and_filling_by_hand() -> None:
    np.testing.assert_array_equal(LATTICE.uniform(), [[0, 0, 0]])  # all whole costs 36
    filled = LATTICE.filled(np.zeros((200, 3), np.int64), np.random.default_rng(0))
    assert {tuple(plan) for plan in filled.tolist()} == {(1, 0, 1), (0, 1, 0)}  # 20 and 18: no more fits
    np.testing.assert_array_equal(LATTICE.positions(np.array([[0.4, 0.99, 1.0]])), [[0, 0, 1]])
    np.testing.assert_array_equal(LATTICE.ratios(np.array([[0, 1, 0]])), [[0.5, 1.0, 0.5]])


def test_random_and_exchanged_plans_use_up_the_budget() -> None:
    _, info = env_of().reset()
    lattice, rng = Lattice(info["choices"], info["costs"]), np.random.default_rng(0)
    plans = lattice.random(100, rng)
    for each in (plans, lattice.exchanged(plans, rng)):
        assert lattice.within(each).all()
        for decision in range(5):
            raised = each.copy()
            raised[:, decision] += 1
            possible = raised[raised[:, decision] <= lattice.tops[decision]]
            assert not lattice.within(possible).any()
    assert len(np.unique(plans, axis=0)) > 50


def test_neighbours_by_hand() -> None:
    found = LATTICE.neighbours(np.array([1, 0, 0]), np.random.default_rng(0))
    assert {tuple(plan) for plan in found.tolist()} == {(1, 0, 1), (0, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_mutations_stay_within_a_budget_of_time_where_fewer_channels_take_longer() -> None:
    slower = {"limit": 20, "constant": 10, "single": ((6, 5), (6, 5), (0, 5)), "pairs": {}}
    lattice = Lattice(HALVES, slower)
    given = EVERY[lattice.within(EVERY)]
    assert 0 < len(given) < len(EVERY)
    for seed in range(100):  # both of the first two are lowered in a ninth of the cases
        assert lattice.within(lattice.exchanged(given, np.random.default_rng(seed))).all()
