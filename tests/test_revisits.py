"""The archive of elites: what it keeps, what is drawn from it, and what it finds that the actor does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from identity import FindTheKeeps, assert_resumes, best_of

from agents import ddpg_elites, elites_alone
from agents.ddpg_elites import EliteDDPG
from agents.elites import Guide, Revisits
from agents.elites_alone import ElitesAlone
from agents.episode import Episode, run_episode
from agents.search import search


def episode_of(reward, *executed):
    column = np.float32(executed)[:, None]
    observations = np.zeros((len(executed) + 1, 2), np.float32)
    return Episode(observations, column, column, reward, ({},) * len(executed))


def guide_of(*actions, changes, sigma=0.3, width=1.0):
    return Guide(np.float32(actions)[:, None], np.array(changes), sigma, width)


def filled(*episodes, **settings):
    revisits = Revisits(**{"top": 2, "sigma": 0.1, "changed": 0.5, "drawn": 0.0} | settings)
    for episode in episodes:
        revisits.add(episode)
    return revisits


def test_the_best_different_episodes_are_kept():
    revisits = filled(
        episode_of(0.2, 0.1, 0.2),
        episode_of(0.5, 0.3, 0.4),
        episode_of(0.5, 0.3, 0.4),  # known
        episode_of(0.1, 0.5, 0.6),
        episode_of(0.5, 0.7, 0.8),  # as good as the first of that reward, and later
    )
    assert [(reward, actions.ravel().tolist()) for reward, actions in revisits.best] == [
        (0.5, pytest.approx([0.3, 0.4])),
        (0.5, pytest.approx([0.7, 0.8])),
    ]


def test_a_better_one_is_chosen_more_often_and_every_one_at_times():
    revisits = filled(*(episode_of(reward, reward, reward) for reward in (0.1, 0.2, 0.3)), top=3)
    rng = np.random.default_rng(0)
    drawn = [revisits.choose(rng).actions[0, 0].item() for _ in range(2000)]
    shares = [np.mean(np.isclose(drawn, reward)) for reward in (0.3, 0.2, 0.1)]
    assert shares == pytest.approx([0.3, 0.21, 0.49], abs=0.04)  # geometric, all later ranks at the last


def test_some_decisions_change_and_never_none():
    revisits, rng = filled(episode_of(0.1, *np.linspace(0, 1, 8)), changed=0.1), np.random.default_rng(0)
    changes = np.array([revisits.choose(rng).changes for _ in range(1000)])
    assert changes.any(axis=1).all()
    assert changes.mean() == pytest.approx(0.1 + 0.9**8 / 8, abs=0.02)


def test_known_episodes_widen_the_changes_and_new_ones_narrow_them():
    revisits, rng = filled(episode_of(0.1, 0.5)), np.random.default_rng(0)
    assert revisits.choose(rng).candidates(4) == 4
    assert revisits.choose(rng).sigma == pytest.approx(0.1)
    for _ in range(2):
        revisits.add(episode_of(0.1, 0.5))
    assert revisits.choose(rng).sigma == pytest.approx(0.1 * 1.3**2)
    revisits.add(episode_of(0.0, 0.25))
    assert revisits.choose(rng).sigma == pytest.approx(0.1 * 1.3**1.5)
    for _ in range(50):
        revisits.add(episode_of(0.1, 0.5))
    assert revisits.choose(rng).sigma == pytest.approx(0.1 * 4)
    assert [revisits.choose(rng).candidates(count) for count in (1, 4, 8)] == [1, 1, 2]


def test_after_known_episodes_more_decisions_change():
    good, rng = episode_of(0.1, *np.linspace(0, 1, 8)), np.random.default_rng(0)
    revisits = filled(*[good] * 50, changed=0.2)  # at its widest, 4
    changes = np.array([revisits.choose(rng).changes for _ in range(1000)])
    assert changes.mean() == pytest.approx(0.4, abs=0.02)
    revisits = filled(*[good] * 50, changed=0.6)
    assert revisits.choose(rng).changes.all()


def test_what_was_asked_is_asked_again_though_the_budget_gave_less():
    episode = replace(episode_of(0.1, 0.3, 0.5), asked=np.float32([[0.3], [0.9]]))
    revisits = filled(episode, replace(episode, asked=np.float32([[0.3], [0.7]])))  # known: it came out alike
    assert [actions.ravel().tolist() for _, actions in revisits.best] == [pytest.approx([0.3, 0.9])]
    assert revisits.choose(np.random.default_rng(0)).actions.ravel() == pytest.approx([0.3, 0.9])


GOOD = [(0.5, 0.4), (0.45, 0.5), (0.55, 0.45), (0.5, 0.55)]  # the best first
WEIGHTS = np.array([0.5299, 0.2857, 0.1428, 0.0415])  # log(4.5 / rank) over their sum


def test_a_drawn_one_has_the_weighted_mean_and_covariance_of_the_best():
    revisits = filled(*(episode_of(-rank, *actions) for rank, actions in enumerate(GOOD)), top=4, drawn=1.0)
    rng, points = np.random.default_rng(0), np.array(GOOD)
    guides = [revisits.choose(rng) for _ in range(20000)]
    assert not any(guide.changes.any() for guide in guides)
    drawn = np.array([guide.actions[:, 0] for guide in guides])
    mean = WEIGHTS @ points
    apart = points - mean
    covariance = apart.T @ (WEIGHTS[:, None] * apart) + 0.05**2 * np.eye(2)
    assert drawn.mean(0) == pytest.approx(mean, abs=2e-3)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=1e-4)


def test_three_good_ones_are_too_few_for_a_distribution():
    revisits = filled(*(episode_of(-rank, *actions) for rank, actions in enumerate(GOOD[:3])), drawn=1.0)
    rng = np.random.default_rng(0)
    drawn = {tuple(revisits.choose(rng).actions.ravel().astype(float).round(4)) for _ in range(100)}
    assert drawn == set(GOOD[:2])  # the best two, from which one starts to change


def test_a_last_action_is_drawn_again_where_its_end_is_known():
    one = replace(episode_of(0.1, 0.5, 0.4), asked=np.float32([[0.5], [0.7]]))  # the budget gave 0.4
    revisits, rng = filled(one, episode_of(0.2, 0.5, 0.2), sigma=0.3), np.random.default_rng(0)

    def renewed(before, asked):
        return revisits.renewed([before], np.float32([asked]), rng).item()

    for asked in (0.1, 0.3, 0.75):
        assert renewed(0.5, asked) == np.float32(asked)
        assert renewed(0.25, asked) == np.float32(asked)  # nothing is known there
    drawn = np.array([renewed(0.5, 0.6) for _ in range(200)])
    assert not ((drawn >= np.float32(0.4)) & (drawn <= np.float32(0.7))).any()  # nor what lies between
    assert not (drawn == np.float32(0.2)).any()
    assert len(set(drawn)) > 50


def test_what_is_known_and_good_is_restored():
    good = [episode_of(-rank, *actions) for rank, actions in enumerate(GOOD)]
    revisits, restored = filled(*good, good[0], top=4), filled(top=4)
    restored.load_state_dict(revisits.state_dict())
    one, other = (
        part.renewed([0.5], np.float32([0.4]), np.random.default_rng(0)) for part in (revisits, restored)
    )
    assert one == other != np.float32(0.4)
    one, other = (part.choose(np.random.default_rng(0)) for part in (revisits, restored))
    assert (one.actions == other.actions).all()
    assert (one.sigma, one.width) == (other.sigma, other.width) == (pytest.approx(0.13), pytest.approx(1.3))


def test_where_all_ends_are_known_it_is_played_as_it_was():
    revisits = filled(replace(episode_of(0.1, 0.5, 0.0), asked=np.float32([[0.5], [1.0]])))
    assert revisits.renewed([0.5], np.float32([0.6]), np.random.default_rng(0)) == np.float32(0.6)


def test_draws_are_clipped_so_that_all_and_nothing_are_choices_like_others():
    guide, rng = guide_of(0.9, 0.2, changes=[True, False]), np.random.default_rng(0)
    drawn = guide.draws(0, 4000, rng)
    assert drawn.shape == (4000, 1)
    assert drawn.dtype == np.float32
    assert np.mean(drawn == 1) == pytest.approx(0.369, abs=0.03)  # a normal's share above a third of sigma
    assert guide.draws(1, 4000, rng).tolist() == [[np.float32(0.2)]]


# -- in the learner

SETTINGS = {"hidden": 16, "learn_after": 4, "warmup": 10, "batch": 16, "revisit": 1.0}


def agent_of(env, *, seed, **settings):
    return EliteDDPG(env.observation_space, env.action_space, seed=seed, **SETTINGS | settings)


def test_the_critic_picks_among_the_draws():
    env = FindTheKeeps()
    agent = agent_of(env, seed=0, revisit=0.0, learn_after=0, draws=64)
    observation = np.eye(4, dtype=np.float32)[0]
    agent.end_episode(run_episode(env, agent))
    with torch.no_grad():
        for parameter in (*agent.actor.parameters(), *agent.critic.parameters()):
            parameter.zero_()  # mu = 0.5
        agent.critic.weights[0][-1, 0] = agent.critic.weights[1][0, 0] = 1.0
        agent.critic.weights[2][0, 0] = -1.0  # Q(s, a) = -a
    guided = [agent.act(observation, {"decisions": 4}, explore=True).item() for _ in range(20)]
    assert max(guided) < 0.2  # the least of 64 draws; of one, half are above 0.5
    assert agent.act(observation, {"decisions": 4}, explore=False) == np.float32([0.5])


@pytest.mark.parametrize(("name", "limits"), ddpg_elites.LIMITS.items())
def test_a_setting_beyond_its_limits_is_an_error(name, limits):
    for beyond in (limits[0] - 1e-7, limits[1] + 1e-7):
        with pytest.raises(ValueError, match=f"^{name} is .*, it is at least .* and at most"):
            agent_of(FindTheKeeps(), seed=0, **{name: beyond})


def test_what_does_not_change_is_played_as_it_was():
    env, played = FindTheKeeps(), []
    agent = agent_of(env, seed=0, revisit_changed=1e-6, revisit_top=1)  # one decision changes, no more
    best = None
    for trial in search(env, agent, episodes=40, seed=0):
        episode = trial.episode
        if trial.index > 5:
            same = episode.asked == played[-1]
            assert not same.all()
            assert same[:-1].sum() >= len(same) - 2  # the last is drawn again where its end is known
        best = episode if best is None or episode.reward > best.reward else best
        played.append(best.executed)


@pytest.mark.slow
def test_it_ends_nearer_to_the_best_than_noise_around_mu():
    env = FindTheKeeps()

    def found(seed, **settings):
        return best_of(env, agent_of(env, seed=seed, **settings), episodes=120, seed=seed).reward

    seeds = range(5)
    with_it, without = ([found(seed, revisit=share) for seed in seeds] for share in (1.0, 0.0))
    assert all(a > b for a, b in zip(with_it, without, strict=True))
    assert np.mean(with_it) > 0.5 * np.mean(without)  # rewards are below 0


def test_a_resumed_search_is_the_uninterrupted_one():
    env = FindTheKeeps()
    assert_resumes(lambda *, seed: agent_of(env, seed=seed, revisit=0.7), env, stop=8, episodes=14)


# -- without networks


def test_elites_alone_have_the_archive_and_the_start_of_ddpg_elites():
    env = FindTheKeeps()
    spaces = env.observation_space, env.action_space
    alone, learner = ElitesAlone(*spaces, seed=0), EliteDDPG(*spaces, seed=0)
    own, its = alone.revisits, learner.revisits
    assert (own.top, own.sigma, own.changed, own.drawn) == (its.top, its.sigma, its.changed, its.drawn)
    assert (learner.settings.learn_after, learner.settings.sigma) == (elites_alone.START, elites_alone.SIGMA)


def test_elites_alone_find_more_than_chance_and_resume():
    env = FindTheKeeps()

    def alone(*, seed):
        return ElitesAlone(env.observation_space, env.action_space, seed=seed)

    assert_resumes(alone, env, stop=24, episodes=30)
    agent, first = alone(seed=0), []
    for trial in search(env, agent, episodes=120, seed=0):
        first.append(trial.episode.reward)
    assert max(first[21:]) > max(first[:21])  # drawn around 0.5 until then
    replayed = run_episode(env, agent, explore=False)
    assert replayed.reward == max(first)
    np.testing.assert_array_equal(replayed.asked, agent.revisits.best[0][1])
    before = agent.rng.bit_generator.state
    run_episode(env, agent, explore=False)
    assert agent.rng.bit_generator.state == before
