"""Black-box optimisers: known optima, bounds, exact resume, and each algorithm step by step."""

import sys

import cma
import numpy as np
import pytest
from identity import (
    BEST_CONSTANT,
    TARGET,
    FindTheKeeps,
    SpendTheBudget,
    assert_resumes,
    best_of,
    played,
)

from agents.blackbox import CMAES, BlackBox, Greedy, RandomSearch, accept
from agents.episode import StateError, run_episode
from agents.lq_cmaes import LQCMAES
from amc_env.tabular import TabularEnv

ENV = FindTheKeeps()
ALL = (RandomSearch, CMAES, Greedy)


def make(kind, env=ENV, seed=0, **settings):
    return kind(env.observation_space, env.action_space, decisions=len(env.target), seed=seed, **settings)


def best_reward(kind, env=ENV, episodes=120, **settings):
    return best_of(env, make(kind, env, **settings), episodes=episodes, seed=0).reward


@pytest.mark.parametrize("kind", [CMAES, Greedy])
def test_an_optimiser_comes_close_and_random_search_does_not(kind):
    assert best_reward(kind) > 0.03 * BEST_CONSTANT
    assert best_reward(RandomSearch) < best_reward(kind)


@pytest.mark.parametrize("kind", [CMAES, Greedy])
def test_an_optimiser_beats_the_uniform_policy_within_a_budget(kind):
    env = SpendTheBudget(relative=True)
    uniform, best = env.value(np.full(8, 0.5)), env.value(env.best_keeps)
    assert uniform < best
    assert best_reward(kind, env, 200) > uniform + 0.6 * (best - uniform)


@pytest.mark.parametrize("kind", [RandomSearch, CMAES])
def test_a_resumed_search_is_the_uninterrupted_one(kind):
    assert_resumes(lambda seed: make(kind, seed=seed), ENV, stop=13, episodes=30)


def test_a_resumed_greedy_search_is_the_uninterrupted_one():
    whole, agent, other = played(ENV, make(Greedy), episodes=40), make(Greedy), make(Greedy)
    played(ENV, agent, episodes=22)
    other.load_state_dict(agent.state_dict())
    np.testing.assert_array_equal(played(ENV, other, episodes=40, start=22), whole[22:])


@pytest.mark.parametrize("kind", ALL)
def test_every_point_lies_in_the_box_and_the_best_is_played_when_not_exploring(kind):
    agent = make(kind)
    asked = played(ENV, agent, episodes=60)
    assert asked.min() >= 0
    assert asked.max() <= 1
    rewards = -((asked - TARGET) ** 2).mean(axis=1)
    best = asked[rewards.argmax()]
    np.testing.assert_array_equal(run_episode(ENV, agent, explore=False).asked[:, 0], best)


@pytest.mark.parametrize("kind", [CMAES, Greedy])
def test_the_first_point_or_mean_is_the_middle(kind):
    small = {"sigma": 1e-6} if kind is CMAES else {}
    np.testing.assert_allclose(played(ENV, make(kind, **small), episodes=1), 0.5, atol=1e-4)
    np.testing.assert_array_equal(run_episode(ENV, make(kind), explore=False).asked, 0.5)


# What the first version played, one point at a time: seed 5, episodes 0, 7, 17 and 39.
PINNED = {
    RandomSearch: [
        [0.805003, 0.807941, 0.515326, 0.285801],
        [0.872195, 0.018517, 0.707496, 0.0012],
        [0.798523, 0.194025, 0.390459, 0.797934],
        [0.042993, 0.529963, 0.477174, 0.833137],
    ],
    CMAES: [
        [0.339614, 0.235125, 0.450326, 0.584092],
        [0.303851, 0.465369, 0.24211, 0.504138],
        [0.211089, 0.914755, 0.272466, 0.28295],
        [0.512458, 0.863148, 0.555114, 0.544583],
    ],
    Greedy: [
        [0.5, 0.5, 0.5, 0.5],
        [0.5, 0.5, 0.25, 0.5],
        [0.0, 0.5, 0.25, 0.5],
        [0.125, 0.875, 0.5, 0.75],
    ],
}


@pytest.mark.parametrize("kind", ALL)
def test_the_points_of_a_seed_never_change(kind):
    asked = played(ENV, make(kind, seed=5), episodes=40)
    np.testing.assert_allclose(asked[[0, 7, 17, 39]], PINNED[kind], atol=1e-6)


def test_a_point_is_played_again_after_an_interrupted_episode():
    agent = make(RandomSearch)
    observation, info = ENV.reset()
    first = agent.act(observation, info, explore=True)
    assert run_episode(ENV, agent).asked[0] == first
    assert run_episode(ENV, agent).asked[0] == first
    assert len(agent.state_dict()["rewards"]) == 0


@pytest.mark.parametrize("kind", [CMAES, LQCMAES])
@pytest.mark.parametrize("seed", range(4))
def test_one_decision_is_searched(kind, seed):
    env = FindTheKeeps(np.array([0.3]))
    assert best_reward(kind, env, 60, seed=seed) > -1e-3


def test_cmaes_restarts_with_twice_the_population_where_it_has_converged(monkeypatch):
    class Flat(FindTheKeeps):
        def step(self, action):
            observation, _, done, truncated, info = super().step(action)
            return observation, 0.0, done, truncated, info

    sizes, original = [], cma.CMAEvolutionStrategy

    def spy(mean, sigma, options):
        sizes.append(options["popsize"])
        return original(mean, sigma, options)

    monkeypatch.setattr("cma.CMAEvolutionStrategy", spy)
    played(Flat(), make(CMAES, population=4), episodes=200)
    assert sizes[:3] == [4, 8, 16]


def test_an_optimiser_that_ends_repeats_its_best():
    class Three(BlackBox):
        def proposals(self, rng):
            yield [np.full(4, 0.1)]
            yield [np.full(4, 0.5), np.full(4, 0.9)]

    asked = played(ENV, make(Three), episodes=6)[:, 0]
    np.testing.assert_allclose(asked, [0.1, 0.5, 0.9, 0.5, 0.5, 0.5])


def test_greedy_tries_one_decision_at_a_time_then_the_threshold():
    asked = played(ENV, make(Greedy, levels=1), episodes=10)
    levels = np.full((9, 4), 0.5)
    for decision in range(4):
        levels[1 + decision, decision], levels[5 + decision, decision] = 0.0, 1.0
    np.testing.assert_allclose(asked[:9], levels)
    assert set(asked[9]) <= {0.0, 0.5, 1.0}


def test_greedy_plays_no_point_twice_until_it_has_converged():
    env = TabularEnv("fashion", target=0.4)
    agent = Greedy(env.observation_space, env.action_space, decisions=5, seed=0)
    asked = played(env, agent, episodes=300)
    last = int(np.flatnonzero((asked != asked[-1]).any(axis=1))[-1])  # from then on the best is repeated
    assert len(np.unique(asked[: last + 1], axis=0)) == last + 1 > 100


def test_accept_by_hand():
    """The lowest level within the threshold; where there is none, the one that loses least."""
    levels = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
    losses = np.array([[0.3, 0.1, 0.9], [0.0, 0.0, 0.0], [-0.1, 0.2, -0.5]])
    np.testing.assert_array_equal(accept(levels, losses, -0.2), [1.0, 0.5, 1.0])
    np.testing.assert_array_equal(accept(levels, losses, 0.0), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(accept(levels, losses, 0.1), [0.5, 0.0, 0.5])
    np.testing.assert_array_equal(accept(levels, losses, 0.9), [0.0, 0.0, 0.0])


def test_wrong_use_is_an_error():
    with pytest.raises(ValueError, match="built for decisions=4, but the episode has 8"):
        run_episode(SpendTheBudget(), make(RandomSearch))
    with pytest.raises(StateError, match="saved with agent 'randomsearch', but this agent has 'greedy'"):
        make(Greedy).load_state_dict(make(RandomSearch).state_dict())
    with pytest.raises(StateError, match="saved with levels 2"):
        make(Greedy, levels=1).load_state_dict(make(Greedy).state_dict())
    for kind, wrong in ((Greedy, {"spread": 0}), (Greedy, {"levels": 0}), (CMAES, {"sigma": -1})):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is .*, it is at least"):
            make(kind, **wrong)


def test_cmaes_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amc-rl\[cmaes\]'"):
        make(CMAES)
