"""Agents over whole plans, each by hand and on tables."""

import itertools
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from identity import FindTheKeeps, assert_resumes, best_of, played
from test_lattice import EVERY, LATTICE

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
from agents.surrogate import GP
from amc_env import tabular
from amc_env.tabular import TabularEnv

KINDS = (GP, Additive, EvoPress)
SPACE = gym.spaces.Box(0, 1, (1,), np.float32)


def env_of(target: float = 0.3, *, scale: str = "absolute") -> TabularEnv:
    return TabularEnv("digits", target=target, scale=scale)


def make(kind: type[PlanSearch], env: gym.Env, seed: int = 0, **settings: int) -> PlanSearch:
    return kind(env.observation_space, env.action_space, seed=seed, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_absolute_scale_what_is_proposed_is_what_is_executed(kind: type[PlanSearch]) -> None:
    env = env_of()
    agent = make(kind, env, **({"starts": 5, "candidates": 50} if kind is GP else {}))
    for _ in range(40):
        _, info = env.reset()
        agent.act(np.zeros(11, np.float32), info, explore=True)
        proposed = agent.state_dict()["queue"][0]
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


def test_changes_by_hand() -> None:
    """From (1, 0, 1) of cost 20 to the plans with one change; raising the second cuts the others."""
    found = changes(LATTICE, np.array([1, 0, 1]), 1)
    assert {tuple(plan) for plan in found.tolist()} == {(0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 0, 0)}


def test_the_best_sums_use_up_the_budget_even_where_less_seems_better() -> None:
    _, info = env_of().reset()
    lattice, agent = Lattice(info["choices"], info["costs"]), Additive(SPACE, SPACE, seed=0)
    plans = lattice.scaled(np.random.default_rng(0).uniform(0.1, 1, (50, 5)))
    played_before = {
        "plans": torch.from_numpy(plans),
        "rewards": (-lattice.ratios(plans).sum(axis=1)).tolist(),
    }
    agent.load_state_dict(agent.state_dict() | played_before)
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
    assert agent.state_dict()["refused"]
    proposals = [tuple(plan) for plans in asked for plan in plans.tolist()]
    assert len(set(proposals)) == len(proposals)
