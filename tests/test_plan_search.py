"""Agents over whole plans: the lattice of plans, its exact cost, and each agent by hand."""

import itertools
import time
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from identity import FindTheKeeps, assert_resumes, best_of, played

from agents import additive, lq_cmaes, surrogate
from agents.additive import Additive, best_sum, changes, fitted
from agents.episode import EpisodeError, StateError, run_episode
from agents.evopress import EvoPress
from agents.gp_errors import GPErrors
from agents.lattice import Lattice
from agents.lq_cmaes import LQCMAES
from agents.plan_search import PlanSearch, unit
from agents.pretrained import Pretrained
from agents.search import search
from agents.surrogate import GP, Process, expected_improvement, matern, standardised, thinned
from amc_env import tabular
from amc_env.tabular import TabularEnv

KINDS = (GP, Additive, EvoPress)
SPACE = gym.spaces.Box(0, 1, (1,), np.float32)
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


def make(kind: type[PlanSearch], env: gym.Env, seed: int = 0, **settings: int) -> PlanSearch:
    return kind(env.observation_space, env.action_space, seed=seed, **settings)


# -- the lattice


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


# -- all of them


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_absolute_scale_what_is_proposed_is_what_is_executed(kind: type[PlanSearch]) -> None:
    env = env_of()
    agent = make(kind, env, **({"starts": 5, "candidates": 50} if kind is GP else {}))
    for _ in range(40):
        _, info = env.reset()
        agent.act(np.zeros(11, np.float32), info, explore=True)
        proposed = list(agent._queue[0])
        agent.end_episode(run_episode(env, agent))
        assert agent.plans[-1].tolist() == proposed
    assert len({tuple(plan) for plan in agent.plans.tolist()}) == 40  # none is played twice
    assert agent.lattice.within(agent.plans).all()
    best = run_episode(env, agent, explore=False)
    assert best.reward == agent.rewards.max()


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_relative_scale_it_learns_of_what_was_executed(kind: type[PlanSearch]) -> None:
    env = env_of(scale="relative")
    agent = make(kind, env, **({"starts": 5, "candidates": 50} if kind is GP else {}))
    for trial in search(env, agent, episodes=25, seed=0):
        kept = [info["keep_applied"] for info in trial.episode.infos]
        np.testing.assert_allclose(agent.lattice.ratios(agent.plans[-1:])[0], kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_search_is_the_uninterrupted_one(kind: type[PlanSearch]) -> None:
    env = env_of()
    settings = {"starts": 4, "candidates": 30} if kind is GP else {}
    if kind is Additive:  # begins with the same plans whatever the seed
        whole, agent, other = (make(kind, env) for _ in range(3))
        asked = played(env, whole, episodes=60)
        played(env, agent, episodes=31)
        other.load_state_dict(agent.state_dict())
        np.testing.assert_array_equal(played(env, other, episodes=60, start=31), asked[31:])
        return
    assert_resumes(lambda seed: RandomStart(make(kind, env, seed, **settings)), env, stop=9, episodes=15)


class RandomStart:
    """An agent whose first plan depends on its seed, as `assert_resumes` asks for."""

    def __init__(self, agent: PlanSearch) -> None:
        self.agent = agent
        self.first = float(agent.rng.random())
        for name in ("end_episode", "state_dict", "load_state_dict"):
            setattr(self, name, getattr(agent, name))

    def act(self, observation, info, *, explore):
        action = self.agent.act(observation, info, explore=explore)
        return action if len(self.agent.plans) > 1 else np.float32([self.first])


@pytest.mark.parametrize("kind", [*KINDS, GPErrors, Pretrained])
@given(rewards=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=12, max_size=12))
@example(rewards=[1e-300 * index for index in range(12)])
@example(rewards=[5e-324, *[0.0] * 11])
@example(rewards=[1e300, -1e300, 1e-300, *[0.3] * 9])
@settings(max_examples=10)
def test_rewards_of_any_size_lead_to_plans_within_the_budget(
    kind: type[PlanSearch], rewards: list[float]
) -> None:
    env = env_of()
    agent = make(kind, env, **({"starts": 3, "candidates": 20} if issubclass(kind, GP) else {}))
    for reward in rewards:
        agent.end_episode(replace(run_episode(env, agent), reward=reward))
    assert agent.lattice.within(agent.plans).all()
    assert len({tuple(plan) for plan in agent.plans.tolist()}) == len(rewards)
    assert run_episode(env, agent, explore=False).asked.shape == (5, 1)


def test_the_unit_of_rewards_loses_no_digits() -> None:
    np.testing.assert_array_equal(unit(np.array([0.3, -0.7])), [0.3, -0.7])
    np.testing.assert_array_equal(unit(np.ldexp([0.3, -0.7], 900)), [0.3, -0.7])
    np.testing.assert_array_equal(unit(np.zeros(2)), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_beats_random_plans_of_the_table(kind: type[PlanSearch]) -> None:
    env = env_of(0.5)
    plans = np.array(list(itertools.product(range(8), repeat=5)))
    _, info = env.reset()
    errors = 1 - env.table.columns["top1"].ravel() / env.table.card.n_images
    allowed = np.sort(errors[Lattice(info["choices"], info["costs"]).within(plans)])
    found = best_of(env, make(kind, env), episodes=60, seed=0)
    assert -found.reward <= allowed[len(allowed) // 500]  # 60 random ones get to 1 in 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_for_one_plan_alone_is_searched_all_the_same(kind: type[PlanSearch]) -> None:
    macs = tabular.load("digits").columns["macs"].ravel()
    env = env_of(float(macs.min() / macs.max()) + 1e-9)
    agent = make(kind, env, **({"starts": 2, "candidates": 20} if kind is GP else {}))
    rewards = {trial.episode.reward for trial in search(env, agent, episodes=8, seed=0)}
    assert len(rewards) == 1
    assert agent.plans.tolist() == [[0] * 5] * 8  # nothing can be filled, so the same plan is played again


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_bound_there_are_smaller_plans_to_find(kind: type[PlanSearch]) -> None:
    env = TabularEnv("digits", target=1.0, reward="params", scale="absolute")
    agent = make(kind, env)
    rewards = [trial.episode.reward for trial in search(env, agent, episodes=30, seed=0)]
    assert len({tuple(plan) for plan in agent.plans}) > 15
    assert max(rewards) > rewards[0]


def test_where_all_neighbours_are_known_others_are_tried() -> None:
    env = TabularEnv("digits", target=1.0, reward="flops", scale="absolute")
    agent = make(EvoPress, env)
    played(env, agent, episodes=60)
    assert len({tuple(plan) for plan in agent.plans}) == 60


def test_a_gaussian_process_may_start_from_the_uniform_plan_alone() -> None:
    env = env_of()
    trials = list(search(env, make(GP, env, starts=1), episodes=3, seed=0))
    assert len(trials) == 3


def test_wrong_use_is_an_error() -> None:
    with pytest.raises(EpisodeError, match="no actions, choices, costs in the info of reset; EvoPress needs"):
        run_episode(FindTheKeeps(), make(EvoPress, FindTheKeeps()))
    agent = make(EvoPress, env_of())
    agent.end_episode(run_episode(env_of(), agent))
    with pytest.raises(EpisodeError, match="EvoPress searches one budget of one network"):
        run_episode(env_of(0.5), agent)
    with pytest.raises(StateError, match="saved with agent 'evopress', but this agent has 'gp'"):
        make(GP, env_of()).load_state_dict(agent.state_dict())
    for kind, limits in ((GP, surrogate.LIMITS), (Additive, additive.LIMITS)):
        for name, (lowest, highest) in limits.items():
            for beyond in (lowest - 1, highest + 1):
                with pytest.raises(ValueError, match=f"^{name} is {beyond}, it is at least"):
                    make(kind, env_of(), **{name: beyond})


# -- the Gaussian process


def test_the_kernel_and_the_improvement_by_hand() -> None:
    np.testing.assert_allclose(matern(np.array([0.0, 1.0])), [1.0, 0.523994], atol=1e-6)
    # at the best mean the improvement is the deviation over sqrt(2 pi); far above, the difference
    improvement = expected_improvement(np.array([1.0, 9.0]), np.array([2.0, 0.5]), 1.0)
    np.testing.assert_allclose(improvement, [0.797885, 8.0], atol=1e-6)


def test_the_process_goes_through_its_values_and_is_unsure_elsewhere() -> None:
    points = np.array([[0.0], [0.4], [1.0]])
    values = np.array([-1.0, 1.0, 0.0])
    mean, deviation = Process(points, values, 0.2, 1e-8).predict(np.array([[0.0], [0.4], [1.0], [0.7]]))
    np.testing.assert_allclose(mean[:3], values, atol=1e-5)
    assert deviation[:3].max() < 1e-3 < deviation[3]


def test_the_prediction_of_one_value_by_hand() -> None:
    """A value of 2 a length away: its correlation is 0.523994, and the process's variance 2 * 2."""
    mean, deviation = Process(np.array([[0.0]]), np.array([2.0]), 1.0, 0.0).predict(np.array([[1.0]]))
    np.testing.assert_allclose(mean, [2 * 0.523994], atol=1e-5)
    np.testing.assert_allclose(deviation, [2 * (1 - 0.523994**2) ** 0.5], atol=1e-5)


def test_where_all_values_are_equal_the_farthest_point_is_tried() -> None:
    """As after a plateau of rewards, whose standardised values are all zero."""
    process = Process(np.array([[0.0], [0.1]]), np.zeros(2), 0.2, 1e-4)
    assert process.improvement(np.array([[0.0], [0.1], [0.9]])).argmax() == 2


def test_the_length_scale_of_the_data_is_found() -> None:
    points = np.random.default_rng(0).random((60, 1))
    slow, fast = np.sin(3 * points[:, 0]), np.sin(40 * points[:, 0])
    assert Process.fitted(points, fast).length < 0.3 < Process.fitted(points, slow).length


def test_very_bad_rewards_are_raised() -> None:
    values = standardised(np.array([*np.linspace(-0.2, -0.1, 99), -50.0]))
    assert values.std() == pytest.approx(1)
    assert values.min() > -5


@pytest.mark.parametrize(("value", "count"), [(0.3, 4), (-0.1, 20), (-0.3, 20)])  # whose means are not exact
def test_equal_rewards_are_zero(value: float, count: int) -> None:
    np.testing.assert_array_equal(standardised(np.full(count, value)), 0)


def test_poor_rewards_differ_from_the_best_where_many_are_equal() -> None:
    values = standardised(np.array([0.1, 0.5, *[0.9] * 10]))
    assert values[0] < values[1] < values[2] == values[11]


def test_the_best_and_the_latest_are_kept() -> None:
    np.testing.assert_array_equal(thinned(np.array([9.0, 1, 2, 8, 3, 4]), 4), [0, 3, 4, 5])
    np.testing.assert_array_equal(thinned(np.array([1.0, 2]), 4), [0, 1])
    env = env_of()
    with pytest.warns(UserWarning, match="GP fits 12 plans from here on"):
        played(env, make(GP, env, starts=3, candidates=20, most=12), episodes=20)


def test_neighbours_by_hand() -> None:
    found = LATTICE.neighbours(np.array([1, 0, 0]), np.random.default_rng(0))
    assert {tuple(plan) for plan in found.tolist()} == {(1, 0, 1), (0, 0, 0), (0, 1, 0), (0, 0, 1)}


def large(decisions: int = 60) -> Lattice:
    """A chain of layers, each of up to 32 widths."""
    choices = tuple(tuple((np.arange(1, 33) / 32).tolist()) for _ in range(decisions))
    table = tuple(tuple(a * b for b in range(1, 33)) for a in range(1, 33))
    pairs = {(t, t + 1): table for t in range(decisions - 1)}
    limit = int(0.4 * 32 * 32 * (decisions - 1))
    return Lattice(
        choices, {"limit": limit, "constant": 0, "single": ((0,) * 32,) * decisions, "pairs": pairs}
    )


def test_a_proposal_of_sixty_decisions_after_400_plans_takes_a_second() -> None:
    lattice, agent = large(), GP(SPACE, SPACE, seed=0)
    plans = lattice.random(400, np.random.default_rng(0))
    agent._plans = plans.tolist()
    agent._rewards = (-((1 - lattice.ratios(plans)) ** 2).mean(axis=1)).tolist()
    began = time.process_time()
    proposal = agent.propose(lattice)
    assert time.process_time() - began < 3  # 0.7 where nothing else runs
    assert lattice.within(proposal).all()


# -- the additive model


def test_changes_by_hand() -> None:
    """From (1, 0, 1) of cost 20 to the plans with one change; raising the second cuts the others."""
    found = changes(LATTICE, np.array([1, 0, 1]), 1)
    assert {tuple(plan) for plan in found.tolist()} == {(0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 0, 0)}


def test_the_best_sums_use_up_the_budget_even_where_less_seems_better() -> None:
    _, info = env_of().reset()
    lattice, agent = Lattice(info["choices"], info["costs"]), Additive(SPACE, SPACE, seed=0)
    plans = lattice.scaled(np.random.default_rng(0).uniform(0.1, 1, (50, 5)))
    agent._plans, agent._rewards = plans.tolist(), (-lattice.ratios(plans).sum(axis=1)).tolist()
    agent.changed = True
    found = agent.propose(lattice)
    assert lattice.within(found).all()
    np.testing.assert_array_equal(lattice.filled(found, np.random.default_rng(1)), found)


def test_an_additive_reward_is_fitted() -> None:
    _, info = env_of().reset()
    lattice, rng = Lattice(info["choices"], info["costs"]), np.random.default_rng(0)
    plans = lattice.random(200, rng)
    worth = [np.sqrt(np.linspace(0, 1, 8)) * weight for weight in (1.0, 3.0, 2.0, 5.0, 4.0)]
    rewards = sum(table[plans[:, d]] for d, table in enumerate(worth))
    tables = fitted(lattice, plans, rewards, plans[0])
    predicted = sum(table[plans[:, d]] for d, table in enumerate(tables))
    assert np.corrcoef(predicted, rewards)[0, 1] > 0.99


@pytest.mark.parametrize("few", [10**5, 0])  # all are looked at; an integer program
@pytest.mark.parametrize("seed", range(5))
def test_the_best_sum_is_that_of_all_plans(seed: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.additive.FEW", few)
    rng = np.random.default_rng(seed)
    tables = [np.sort(rng.random(2)) for _ in range(3)]
    worth = sum(table[EVERY[:, d]] for d, table in enumerate(tables))
    order = [plan for plan in EVERY[np.argsort(-worth)] if LATTICE.within(plan[None])[0]]
    near, nothing = np.zeros(3, np.int64), np.zeros((0, 3), np.int64)
    np.testing.assert_array_equal(best_sum(LATTICE, tables, near, nothing), [order[0]])
    np.testing.assert_array_equal(best_sum(LATTICE, tables, near, np.array(order[:1])), [order[1]])
    assert len(best_sum(LATTICE, tables, near, EVERY)) == 0  # none is left


# -- surrogate-assisted CMA-ES


def test_lq_cmaes_goes_on_exactly_and_finds_more_with_fewer_evaluations() -> None:
    env = FindTheKeeps()

    def agent(seed: int) -> LQCMAES:
        return LQCMAES(env.observation_space, env.action_space, decisions=4, seed=seed)

    assert_resumes(agent, env, stop=21, episodes=40)
    assert best_of(env, agent(0), episodes=80, seed=0).reward > -1e-4
    assert agent(0).state_dict()["agent"] == "lqcmaes"


def test_lq_cmaes_trusts_a_model_that_ranks_well_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped: list[float] = []

    def spied(model: Any, points: Any, losses: Any) -> list[float]:
        skipped.append(float(np.isnan(losses).mean()))
        return completed(model, points, losses)

    completed = lq_cmaes._completed
    monkeypatch.setattr(lq_cmaes, "_completed", spied)
    noise, means = np.random.default_rng(0), []
    for reward in (lambda point: -float(np.square(point - 0.3).sum()), lambda _: noise.random()):
        skipped.clear()
        env = FindTheKeeps()
        search = LQCMAES(env.observation_space, env.action_space, decisions=4, seed=0)
        proposals = search.proposals(np.random.default_rng(0))
        points = next(proposals)
        for _ in range(150):
            points = proposals.send([reward(point) for point in points])
        means.append(np.mean(skipped[5:]))  # after the model has enough losses
    assert means[0] > 0.4 > 0.15 > means[1]


def test_mutations_stay_within_a_budget_of_time_where_fewer_channels_take_longer() -> None:
    slower = {"limit": 20, "constant": 10, "single": ((6, 5), (6, 5), (0, 5)), "pairs": {}}
    lattice = Lattice(HALVES, slower)
    given = EVERY[lattice.within(EVERY)]
    assert 0 < len(given) < len(EVERY)
    for seed in range(20):
        assert lattice.within(lattice.exchanged(given, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_plan_is_played_twice_while_there_are_others(kind: type[PlanSearch]) -> None:
    env = TabularEnv("cifar_plain6", target=0.3, scale="absolute")
    trials = search(env, make(kind, env), episodes=40 if kind is EvoPress else 120, seed=0)
    plans = [trial.episode.final["plan"].kept for trial in trials]
    assert len(set(plans)) == len(plans)


@pytest.mark.parametrize("kind", [GP, Additive])
def test_a_plan_that_was_refused_is_not_asked_for_again(kind: type[PlanSearch]) -> None:
    """On the relative scale many plans are out of reach."""
    env = env_of(scale="relative")
    agent, asked = make(kind, env), []
    propose = agent.propose
    agent.propose = lambda lattice: asked.append(propose(lattice)) or asked[-1]
    list(search(env, agent, episodes=60, seed=0))
    assert agent._refused
    proposals = [tuple(plan) for plans in asked for plan in plans.tolist()]
    assert len(set(proposals)) == len(proposals)
