"""Noise on an actor's parameters: how large it is, whom it leaves alone, and what it follows."""

import copy

import numpy as np
import pytest
import torch
from identity import FindTheKeeps
from test_ddpg import make

from agents.networks import Networks, policy
from agents.perturbation import RATE, SPREAD, Perturbation
from agents.search import run_episode

ENV = FindTheKeeps()


def test_parameters_differ_by_the_spread_in_units_of_their_layers_and_the_actor_stays():
    mu = Networks((4, 400, 400, 1), 1, torch.Generator().manual_seed(0))
    before, perturbation = copy.deepcopy(mu.state_dict()), Perturbation()
    perturbation.spread = 0.3
    other = perturbation(mu, np.random.default_rng(0))
    torch.testing.assert_close(mu.state_dict(), before, rtol=0, atol=0)
    difference = other.weights[1] - mu.weights[1]
    assert difference.std().item() == pytest.approx(0.3 / 20, rel=0.02)  # 400 inputs
    assert (other.biases[0] - mu.biases[0]).std().item() == pytest.approx(0.3 / 2, rel=0.15)  # 4 inputs


@pytest.mark.parametrize(
    ("differences", "sigma", "factor"),
    [
        ([0.1, -0.2], 0.16, RATE),  # their root mean square is 0.158
        ([0.1, -0.2], 0.15, 1 / RATE),
        ([0.28, 0.28], 5.0, RATE),  # uniform actions have 0.289, and more is not wanted
        ([0.3, 0.3], 5.0, 1 / RATE),
    ],
)
def test_the_spread_follows_what_it_brought_about(differences, sigma, factor):
    perturbation = Perturbation()
    perturbation.follow(np.array(differences), sigma)
    assert perturbation.spread == pytest.approx(SPREAD * factor)


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_in_the_end_actions_differ_by_sigma(sigma):
    agent = make(noise="parameters", sigma=sigma, warmup=200, learn_after=200)
    asked = [run_episode(ENV, agent).asked for _ in range(150)]
    mu = run_episode(ENV, agent, explore=False).asked
    apart = [np.sqrt(np.square(actions - mu).mean()) for actions in asked]
    assert np.median(apart[50:]) == pytest.approx(sigma, rel=0.3)


def test_an_episode_has_one_explorer_and_the_next_another():
    agent = make(noise="parameters", warmup=5)
    first, again = run_episode(ENV, agent), run_episode(ENV, agent)
    assert np.abs(first.asked - again.asked).max() > 1e-3
    with torch.inference_mode():
        said = policy(agent._explorer, torch.from_numpy(again.observations[:-1]))
    np.testing.assert_allclose(again.asked, said, atol=1e-6)


def test_only_episodes_that_it_explored_change_the_spread():
    agent = make(noise="parameters")
    run_episode(ENV, agent, explore=False)
    assert agent.perturbation.spread == SPREAD
    run_episode(ENV, agent)
    assert agent.perturbation.spread in (SPREAD * RATE, SPREAD / RATE)
