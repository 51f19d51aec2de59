"""The adapter for Stable-Baselines3, where AMC and the library differ."""

import numpy as np
import pytest
import torch
from identity import BEST_CONSTANT, FindTheKeeps, assert_resumes, global_generators, played
from scipy import stats

from agents.episode import Episode, StateError, run_episode
from agents.sb3 import StableBaselines
from agents.search import search

ENV = FindTheKeeps()
ALGORITHMS = ("ddpg", "td3")
QUICK = {"hidden": 16, "learn_after": 0, "warmup": 2, "batch": 8, "memory": 18}


def make(*, seed=0, **settings):
    return StableBaselines(ENV.observation_space, ENV.action_space, seed=seed, **settings)


def episode_of(reward):
    column = [np.float32(actions)[:, None] for actions in ((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8))]
    return Episode(np.eye(5, 4, dtype=np.float32), *column, reward, ({},) * 4)


def test_their_memory_holds_the_final_reward_on_every_transition_and_actions_in_their_scale():
    agent = make()
    agent.end_episode(episode_of(-0.25))
    memory = agent.model.replay_buffer
    assert memory.size() == 4
    np.testing.assert_array_equal(memory.rewards[:4, 0], -0.25)
    np.testing.assert_array_equal(memory.dones[:4, 0], [0, 0, 0, 1])
    np.testing.assert_allclose(memory.actions[:4, 0, 0], [0, 0.2, 0.4, 0.6], atol=1e-6)
    np.testing.assert_array_equal(memory.observations[:4, 0], np.eye(4))
    np.testing.assert_array_equal(memory.next_observations[:4, 0], np.eye(5, 4)[1:])


def test_the_noise_is_a_truncated_normal_around_mu_in_units_of_the_action():
    agent, observation = make(sigma=0.3), ENV.reset()[0]
    mu = agent.act(observation, {}, explore=False).item()
    sample = [agent.act(observation, {}, explore=True).item() for _ in range(400)]
    assert stats.kstest(sample, stats.truncnorm(-mu / 0.3, (1 - mu) / 0.3, mu, 0.3).cdf).pvalue > 0.05


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_warm_up_counts_episodes_and_updates_count_decisions(algorithm):
    agent = make(**QUICK | {"algorithm": algorithm, "warmup": 3, "learn_after": 2, "sigma_decay": 0.5})
    metrics = [agent.end_episode(episode_of(0.0)) for _ in range(5)]
    assert [row["sigma"] for row in metrics] == [0.5, 0.5, 0.5, 0.5, 0.25]
    assert ["critic_loss" in row for row in metrics] == [False, False, True, True, True]
    assert agent.model._n_updates == 3 * 4


def test_the_networks_are_those_of_amc():
    layers = [
        tuple(weight.shape)
        for name, weight in make().model.actor.named_parameters()
        if name.endswith("weight")
    ]
    assert layers == [(300, 4), (300, 300), (1, 300)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_search_is_the_uninterrupted_one(algorithm):
    def make_quick(*, seed):
        return make(seed=seed, **QUICK | {"algorithm": algorithm})

    assert_resumes(make_quick, ENV, stop=5, episodes=8)


@pytest.mark.parametrize(
    ("algorithm", "rewards"),
    [
        ("ddpg", [-0.192464, -0.233358, -0.056214, -0.058675, -0.065907]),
        ("td3", [-0.192464, -0.233358, -0.055736, -0.055184, -0.052084]),
    ],
)
def test_the_search_of_a_seed_never_changes(algorithm, rewards):
    """Episodes 0, 5, 9, 14 and 19, as the first version played them; it learns from 8 on."""
    settings = {"hidden": 16, "learn_after": 8, "warmup": 10, "batch": 8, "memory": 100}
    trials = list(search(ENV, make(algorithm=algorithm, seed=5, **settings), episodes=20, seed=0))
    found = np.array([trial.episode.reward for trial in trials])
    np.testing.assert_allclose(found[[0, 5, 9, 14, 19]], rewards, atol=1e-4)


def test_two_agents_in_one_process_do_not_disturb_each_other():
    def play(agents, episodes=4):
        rewards = {id(agent): [] for agent in agents}
        for _ in range(episodes):
            for agent in agents:
                episode = run_episode(ENV, agent)
                agent.end_episode(episode)
                rewards[id(agent)].append(episode.reward)
        return list(rewards.values())

    def pair():
        return make(algorithm="ddpg", seed=0, **QUICK), make(algorithm="td3", seed=1, **QUICK)

    before = global_generators()
    together = play(pair())
    assert global_generators() == before
    np.random.rand(5)  # noqa: NPY002 - the rest of the program draws meanwhile
    torch.rand(5)
    assert [play([agent])[0] for agent in pair()] == together


@pytest.mark.slow
def test_it_learns_what_no_constant_policy_can():
    quick = {"hidden": 32, "learn_after": 0, "warmup": 40, "sigma_decay": 0.96, "lr": 3e-3}
    agent = make(**quick)
    played(ENV, agent, episodes=150)
    assert run_episode(ENV, agent, explore=False).reward > BEST_CONSTANT


def test_wrong_settings_and_states_are_errors():
    with pytest.raises(ValueError, match="there are ddpg, td3"):
        make(algorithm="ppo")
    for wrong in ({"memory": 0}, {"gamma": 2.0}, {"tau": 5.0}, {"learn_after": -5}, {"lr": float("nan")}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is .*, it is at least .* and at most"):
            make(**wrong)
    with pytest.raises(StateError, match="saved with algorithm 'ddpg', but this agent has 'td3'"):
        make(algorithm="td3").load_state_dict(make().state_dict())


def test_no_update_an_episode_is_an_error_that_names_the_least():
    agent = make(**QUICK | {"updates_per_step": 0.01})
    with pytest.raises(ValueError, match=r"no update in an episode with decisions=4; give 0.25 or more"):
        agent.end_episode(episode_of(0.0))
    with pytest.raises(ValueError, match="no update in an episode with decisions=4"):  # before any evaluation
        agent.act(episode_of(0.0).observations[0], {"decisions": 4}, explore=True)


def test_an_episode_without_an_update_of_the_actor_has_no_loss_of_it():
    """TD3 updates its actor every second time."""
    agent = make(algorithm="td3", **QUICK | {"updates_per_step": 0.25})
    losses = [set(trial.metrics) for trial in search(ENV, agent, episodes=8, seed=0)]
    assert ["actor_loss" in names for names in losses[2:]] in ([True, False] * 3, [False, True] * 3)
