"""DDPG: each formula against hand-computed values, a task with a known optimum, and exact resume."""

import statistics

import numpy as np
import pytest
import torch
from identity import BEST_CONSTANT, FindTheKeeps, SpendTheBudget, assert_resumes, played
from scipy import stats

from agents.ddpg import DDPG, moving_average, td_target
from agents.episode import Episode, StateError, run_episode
from agents.networks import q_values, soft_update
from agents.noise import SigmaSchedule, truncated_normal
from agents.replay import ReplayBuffer
from agents.search import search

ENV = FindTheKeeps()
FIRST = {"decisions": 4}  # info of an episode's first decision
QUICK = {"hidden": 16, "learn_after": 0, "warmup": 2, "batch": 8, "memory": 20}


def make(*, seed=0, **settings):
    return DDPG(ENV.observation_space, ENV.action_space, seed=seed, **settings)


def episode_of(reward, asked=(0.1, 0.2, 0.3, 0.4), executed=(0.5, 0.6, 0.7, 0.8)):
    column = [np.float32(actions)[:, None] for actions in (asked, executed)]
    return Episode(np.eye(5, 4, dtype=np.float32), *column, reward, ({},) * 4)


@torch.no_grad()
def constant(network, value):
    """Make a network say ``value`` whatever it is shown."""
    for parameter in network.parameters():
        parameter.zero_()
    network.biases[-1].fill_(value)


# -- formulas


def test_td_target_by_hand():
    """One middle step and one last: y = r - b + gamma (1 - done) Q'(s', mu'(s'))."""
    reward, done, next_q = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 9.0])
    torch.testing.assert_close(td_target(reward, 0.2, done, next_q, 1.0), torch.tensor([2.3, 0.3]))
    torch.testing.assert_close(td_target(reward, 0.2, done, next_q, 0.5), torch.tensor([1.3, 0.3]))


def test_soft_update_by_hand():
    target, online = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for module, value in ((target, 1.0), (online, 3.0)):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, value)
    soft_update(target, online, 0.25)
    assert [parameter.item() for parameter in target.parameters()] == [1.5, 1.5]
    assert [parameter.item() for parameter in online.parameters()] == [3.0, 3.0]


def test_moving_average_by_hand():
    assert moving_average(0.5, 0.9, 0.25) == pytest.approx(0.6)


# -- noise


@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 0.5), (0.3, 0.5), (0.999, 0.02), (1.0, 10.0), (0.5, 1e-4)])
def test_the_noise_is_a_truncated_normal(mu, sigma):
    sample = truncated_normal(np.full(200, mu), sigma, np.random.default_rng(0))
    law = stats.truncnorm((0 - mu) / sigma, (1 - mu) / sigma, mu, sigma)
    np.testing.assert_allclose(sample, law.ppf(np.random.default_rng(0).random(200)), atol=1e-6)
    assert sample.dtype == np.float32
    assert sample.min() >= 0
    assert sample.max() <= 1
    assert truncated_normal(np.float32([mu]), 0.0, np.random.default_rng(0)) == np.float32(mu)


def test_sigma_is_constant_in_the_warm_up_then_decays_after_each_episode():
    sigma = SigmaSchedule(initial=0.5, warmup=100, decay=0.5)
    assert [sigma(episode) for episode in (0, 99, 100, 101, 102)] == [0.5, 0.5, 0.5, 0.25, 0.125]


def test_the_agent_follows_the_schedule():
    agent = make(warmup=3, sigma=0.5, sigma_decay=0.01)
    sigmas = [agent.end_episode(episode_of(0.0))["sigma"] for _ in range(6)]
    assert sigmas == pytest.approx([0.5, 0.5, 0.5, 0.5, 5e-3, 5e-5])
    observation = np.eye(4, dtype=np.float32)[0]
    noisy = [agent.act(observation, FIRST, explore=True).item() for _ in range(50)]
    assert 0 < np.ptp(noisy) < 1e-5  # sigma is 5e-7 by now: noise that never decays is not this close to mu
    again = [make().act(observation, FIRST, explore=True).item() for _ in range(50)]
    assert np.ptp(again) == 0  # own generator
    agent = make()
    assert np.ptp([agent.act(observation, FIRST, explore=True).item() for _ in range(50)]) > 0.5


def test_mu_alone_is_played_when_not_exploring():
    agent = make()
    constant(agent.actor, 0.0)
    np.testing.assert_array_equal(run_episode(ENV, agent, explore=False).asked, np.full((4, 1), 0.5))
    assert np.ptp(run_episode(ENV, agent).asked) > 0


# -- memory


def test_the_memory_holds_each_transition_with_the_next_observation_and_the_final_reward():
    memory = ReplayBuffer(10, 4, np.random.default_rng(0))
    episode = episode_of(-0.25)
    memory.add_episode(episode.observations, episode.asked, episode.reward)
    batch = memory.sample(200)
    at = batch.observation.argmax(dim=1)  # which decision
    assert set(at.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(batch.next_observation, torch.eye(5, 4)[1:][at])
    torch.testing.assert_close(batch.action[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4])[at])
    torch.testing.assert_close(batch.done, (at == 3).float())
    torch.testing.assert_close(batch.reward, torch.full((200,), -0.25))


def test_the_memory_is_a_ring():
    memory = ReplayBuffer(6, 4, np.random.default_rng(0))
    for reward in (1.0, 2.0, 3.0):
        memory.add_episode(episode_of(0).observations, episode_of(0).asked, reward)
    assert len(memory) == 6
    assert set(memory.sample(200).reward.flatten().tolist()) == {2.0, 3.0}


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (np.zeros((5, 3), np.float32), np.zeros((4, 1), np.float32)),
        (np.zeros((4, 4), np.float32), np.zeros((4, 1), np.float32)),
        (np.zeros((5, 4), np.float64), np.zeros((4, 1), np.float32)),
        (np.zeros((5, 4), np.float32), np.zeros(4, np.float32)),
    ],
)
def test_the_memory_checks_what_it_is_given(observations, actions):
    with pytest.raises(AssertionError):
        ReplayBuffer(10, 4, np.random.default_rng(0)).add_episode(observations, actions, 0.0)


def test_the_executed_action_is_stored():
    agent = make()
    agent.end_episode(episode_of(0.0))
    found = sorted(set(agent.memory.sample(99).action[:, 0].tolist()))
    assert found == pytest.approx([0.5, 0.6, 0.7, 0.8])


# -- update


def test_the_target_masks_the_end_and_subtracts_the_baseline():
    agent = make(baseline_rate=0.5)
    agent.end_episode(episode_of(-1.0))
    agent.end_episode(episode_of(-0.5))
    assert agent.average == pytest.approx(-0.75)
    constant(agent.critic_target, 2.0)
    batch = agent.memory.sample(64)
    np.testing.assert_allclose(agent._target(batch), batch.reward + 0.75 + 2.0 * (1 - batch.done), rtol=1e-6)


def test_the_target_uses_the_target_networks_at_the_next_observation():
    agent = make(**QUICK)
    for reward in (-1.0, -0.5, -0.2):
        agent.end_episode(episode_of(reward))
    batch = agent.memory.sample(64)
    with torch.no_grad():
        mu = torch.sigmoid(agent.actor_target(batch.next_observation))
        next_q = q_values(agent.critic_target, batch.next_observation, mu)
    expected = td_target(batch.reward, agent.average, batch.done, next_q, 1.0)
    torch.testing.assert_close(agent._target(batch), expected)


def test_the_own_reward_enters_the_baseline_after_the_update():
    agent = make(baseline_rate=0.5)
    assert [agent.end_episode(episode_of(reward))["baseline"] for reward in (-1.0, 0.0, 0.0)] == [
        -1.0,
        -1.0,
        -0.5,
    ]


@pytest.mark.parametrize("preferred", [0.0, 1.0])
def test_the_policy_climbs_the_critic(preferred):
    """A critic that says Q = a, or Q = -a, moves mu up, or down."""
    agent = make(**QUICK | {"lr_critic": 1e-12, "lr_actor": 1e-2})
    agent.end_episode(episode_of(0.0))
    constant(agent.critic, 0.0)
    sign = 1 if preferred else -1
    with torch.no_grad():
        for weight, row, value in zip(agent.critic.weights, (4, 0, 0), (1, 1, sign), strict=True):
            weight[row, 0] = value  # the action is the last of the critic's five inputs
    before = run_episode(ENV, agent, explore=False).asked
    for _ in range(30):
        agent._update()
    after = run_episode(ENV, agent, explore=False).asked
    assert (np.abs(after - preferred) < np.abs(before - preferred) - 0.1).all()


def test_an_update_moves_the_targets_by_tau_towards_the_networks():
    agent = make(**QUICK, tau=0.25)
    agent.end_episode(episode_of(0.0))
    pairs = ((agent.actor, agent.actor_target), (agent.critic, agent.critic_target))
    before = [[parameter.clone() for parameter in target.parameters()] for _, target in pairs]
    agent._update()
    for (online, target), olds in zip(pairs, before, strict=True):
        for new, moved, old in zip(online.parameters(), target.parameters(), olds, strict=True):
            torch.testing.assert_close(moved.data, 0.75 * old + 0.25 * new.data)
            assert not torch.equal(moved, old)


def test_there_are_as_many_updates_as_decisions_once_learning_starts():
    agent = make(**QUICK | {"learn_after": 2, "updates_per_step": 0.5})
    steps = []
    for _ in range(4):
        agent.end_episode(episode_of(0.0))
        state = agent.actor_optimizer.state_dict()["state"]
        steps.append(state[0]["step"].item() if state else 0)
    assert steps == [0, 0, 2, 4]


# -- the whole


def learnt(seed, **settings):
    """What the policy earns in the end, without noise."""
    quick = {
        "hidden": 64,
        "learn_after": 0,
        "warmup": 40,
        "sigma_decay": 0.97,
        "lr_actor": 1e-3,
        "lr_critic": 3e-3,
    }
    agent = make(seed=seed, **quick | settings)
    played(ENV, agent, episodes=200)
    return run_episode(ENV, agent, explore=False).reward


def test_ddpg_learns_what_no_constant_policy_can():
    assert statistics.median(learnt(seed) for seed in (0, 1, 2)) > 0.6 * BEST_CONSTANT


def test_a_resumed_search_is_the_uninterrupted_one():
    env = SpendTheBudget(relative=True)

    def make(*, seed):
        return DDPG(env.observation_space, env.action_space, seed=seed, **QUICK)

    assert_resumes(make, env, stop=5, episodes=9)


def test_the_search_of_a_seed_never_changes():
    """Episodes 0, 5, 9, 14 and 19, as the first version played them; it learns from 8 on."""
    agent = make(seed=5, hidden=16, learn_after=8, batch=8, memory=100, warmup=10)
    found = [trial.episode.reward for trial in search(ENV, agent, episodes=20, seed=0)]
    expected = [-0.190247, -0.230460, -0.054347, -0.051378, -0.039064]
    np.testing.assert_allclose(np.array(found)[[0, 5, 9, 14, 19]], expected, atol=1e-4)


def test_no_update_an_episode_is_an_error_that_names_the_least():
    agent = make(**QUICK | {"updates_per_step": 0.01})
    with pytest.raises(ValueError, match=r"no update in an episode with decisions=4; give 0.25 or more"):
        agent.end_episode(episode_of(0.0))
    with pytest.raises(ValueError, match="no update in an episode with decisions=4"):  # before any evaluation
        agent.act(episode_of(0.0).observations[0], {"decisions": 4}, explore=True)


def test_a_state_of_other_settings_is_refused():
    with pytest.raises(StateError, match=r"saved with tau 0.01, but this agent has 0.5"):
        make(tau=0.5).load_state_dict(make().state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0, it is at least 1"),
        ({"tau": 1.5}, "tau is 1.5, it is at least 0 and at most 1"),
        ({"baseline_rate": -0.1}, "baseline_rate is -0.1, it is at least 0"),
        ({"sigma_decay": 0.0}, "sigma_decay is 0.0, it is at least 1e-06"),
    ],
)
def test_a_wrong_setting_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
