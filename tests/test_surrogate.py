"""The Gaussian process of `agents.surrogate`, by hand and as `GP` uses it."""

import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from identity import played

from agents.lattice import Lattice
from agents.plan_search import PlanSearch
from agents.surrogate import GP, Process, expected_improvement, matern, standardised, thinned
from amc_env.tabular import TabularEnv

SPACE = gym.spaces.Box(0, 1, (1,), np.float32)


def env_of(target: float = 0.3, *, scale: str = "absolute") -> TabularEnv:
    return TabularEnv("digits", target=target, scale=scale)


def make(kind: type[PlanSearch], env: gym.Env, seed: int = 0, **settings: int) -> PlanSearch:
    return kind(env.observation_space, env.action_space, seed=seed, **settings)


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
    rewards = (-((1 - lattice.ratios(plans)) ** 2).mean(axis=1)).tolist()
    agent.load_state_dict(agent.state_dict() | {"plans": torch.from_numpy(plans), "rewards": rewards})
    began = time.process_time()
    proposal = agent.propose(lattice)
    assert time.process_time() - began < 3  # 0.7 where nothing else runs
    assert lattice.within(proposal).all()
