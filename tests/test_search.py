"""The loop: what an episode holds, which is the best, what stops a search, and that it can go on."""

import threading
import time

import numpy as np
import pytest
from identity import FindTheKeeps

from agents.search import (
    AHEAD,
    ActionError,
    Best,
    Episode,
    EpisodeError,
    RewardError,
    StateError,
    Trial,
    check_state,
    episode_seed,
    run_episode,
    run_search,
    search,
)


class Script:
    """Plays given actions, in turn and for ever, and remembers what it was shown."""

    def __init__(self, *actions):
        self.actions, self.learnt, self.seen = actions, [], []

    def act(self, observation, info, *, explore):
        self.seen.append((observation, dict(info), explore))
        action = self.actions[(len(self.seen) - 1) % len(self.actions)]
        return np.array([action], np.float32) if isinstance(action, float) else action

    def end_episode(self, episode):
        self.learnt.append(episode.reward)
        return {"learnt": float(len(self.learnt))}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Rewarding(FindTheKeeps):
    """Pays a given reward an episode, whatever is done."""

    def __init__(self, *rewards):
        super().__init__()
        self.rewards, self.seeds = list(rewards), []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return super().reset(seed=seed)

    def step(self, action):
        observation, _, done, truncated, info = super().step(action)
        return observation, self.rewards.pop(0) if done else 0.0, done, truncated, info


def test_an_episode_holds_what_happened():
    agent = Script(0.1, 0.9, 0.5, 0.7)
    episode = run_episode(FindTheKeeps(floor=0.4), agent, explore=False)
    np.testing.assert_array_equal(episode.observations, np.eye(5, 4))
    np.testing.assert_array_equal(episode.asked, np.float32([[0.1], [0.9], [0.5], [0.7]]))
    np.testing.assert_array_equal(episode.executed, np.float32([[0.4], [0.9], [0.5], [0.7]]))
    assert episode.reward == pytest.approx(-(0.2**2) / 4)
    assert (len(episode), episode.final) == (4, episode.infos[3])
    assert episode.observations.dtype == episode.asked.dtype == episode.executed.dtype == np.float32
    assert agent.learnt == []
    assert [info.get("decisions") for _, info, _ in agent.seen] == [4, None, None, None]
    assert not any(explore for _, _, explore in agent.seen)


def test_an_episode_does_not_share_memory_with_the_environment():
    class OneBuffer(FindTheKeeps):
        buffer = np.zeros(4, np.float32)

        def _observation(self):
            self.buffer[:] = super()._observation()
            return self.buffer

    np.testing.assert_array_equal(run_episode(OneBuffer(), Script(0.5)).observations, np.eye(5, 4))


def test_the_best_is_the_first_of_equals():
    reported = []
    best = run_search(
        Rewarding(-0.5, -0.2, -0.3, -0.2),
        Script(0.5),
        episodes=4,
        seed=0,
        on_episode=lambda trial: reported.append(trial),
    )
    assert best is reported[1].episode
    assert [trial.index for trial in reported] == [0, 1, 2, 3]
    assert [trial.metrics for trial in reported] == [
        {"learnt": 1.0},
        {"learnt": 2.0},
        {"learnt": 3.0},
        {"learnt": 4.0},
    ]


def test_every_episode_has_a_seed_of_its_own():
    env = Rewarding(*[0.0] * 6)
    run_search(env, Script(0.5), episodes=3, seed=0)
    run_search(env, Script(0.5), episodes=3, seed=1)
    assert len(set(env.seeds)) == 6
    assert env.seeds == [episode_seed(seed, index) for seed in (0, 1) for index in range(3)]


def test_a_search_goes_on_where_it_stopped():
    env, best = Rewarding(-0.1, -0.4), Best()
    run_search(env, Script(0.5), episodes=1, seed=7, best=best)
    first = best.trial
    assert run_search(env, Script(0.5), episodes=2, start=1, seed=7, best=best) is first.episode
    assert env.seeds == [episode_seed(7, 0), episode_seed(7, 1)]
    assert (
        run_search(env, Script(0.5), episodes=2, start=2, seed=7, best=best) is first.episode
    )  # nothing is left
    with pytest.raises(ValueError, match="nothing left to search after 2 of 2 episodes"):
        run_search(env, Script(0.5), episodes=2, start=2, seed=7)


@pytest.mark.parametrize(("episodes", "start"), [(0, 0), (-3, 0), (5, 6), (5, -1)])
def test_a_wrong_number_of_episodes_is_an_error(episodes, start):
    with pytest.raises(ValueError, match="give at least 1"):
        next(search(Rewarding(), Script(0.5), episodes=episodes, start=start, seed=0))


def test_an_interrupt_leaves_the_best_so_far():
    def interrupt(trial):
        if trial.index == 1:
            raise KeyboardInterrupt

    best = Best()
    with pytest.raises(KeyboardInterrupt):
        run_search(
            Rewarding(-0.1, -0.4, 0.0), Script(0.5), episodes=3, seed=0, best=best, on_episode=interrupt
        )
    assert (best.trial.index, best.trial.episode.reward) == (0, -0.1)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (float("nan"), "decision 1 the agent answered NaN"),
        (1.25, r"\[1.25\], outside \[0.0, 1.0\]"),
        (-0.01, r"outside \[0.0, 1.0\]"),
        (np.float32([0.5, 0.5]), r"an array of shape \(1,\)"),
        (np.float32(0.5), r"an array of shape \(1,\)"),
        ([0.5], r"an array of shape \(1,\)"),
    ],
)
def test_a_wrong_action_is_an_error(action, message):
    with pytest.raises(ActionError, match=message):
        run_episode(FindTheKeeps(), Script(0.5, action))


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_stops_the_search_and_the_agent_never_learns_of_it(reward):
    agent, reported = Script(0.5), []
    with pytest.raises(RewardError, match=f"episode 2 ended with reward {reward}"):
        run_search(Rewarding(-0.1, -0.2, reward, 0.0), agent, episodes=4, seed=0, on_episode=reported.append)
    assert [trial.episode.reward for trial in reported] == agent.learnt == [-0.1, -0.2]


def test_an_environment_must_end_by_itself_and_say_what_it_executed():
    class CutOff(FindTheKeeps):
        def step(self, action):
            observation, reward, done, _, info = super().step(action)
            return observation, reward, done, len(self.kept) == 2, info

    class Silent(FindTheKeeps):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {"share": info["share"]}

    with pytest.raises(EpisodeError, match="cut off after 2 decisions"):
        run_episode(CutOff(), Script(0.5))
    with pytest.raises(EpisodeError, match="no 'action_executed'"):
        run_episode(Silent(), Script(0.5))


def test_a_state_of_other_settings_names_the_difference():
    state = {"agent": "ddpg", "settings": {"tau": 0.01, "batch": 64}}
    check_state(state, agent="ddpg", settings={"tau": 0.01, "batch": 64})
    with pytest.raises(StateError, match="saved with batch 64, but this agent has 32"):
        check_state(state, agent="ddpg", settings={"tau": 0.01, "batch": 32})
    with pytest.raises(StateError, match="no 'decisions' in it"):
        check_state(state, decisions=4)


# -- episodes played ahead, and several environments


class Counter:
    """Plays the number of the episode, pending ones included, and can do so for ``ahead`` of them."""

    def __init__(self, ahead):
        self.ahead, self.learnt, self.calls = ahead, [], []

    def act(self, observation, info, *, explore):
        number = len(self.learnt) + info["pending"]
        if "decisions" in info:
            self.calls.append(("act", number))
        return np.array([number / 100], np.float32)

    def end_episode(self, episode):
        self.calls.append(("learn", len(self.learnt)))
        self.learnt.append(episode.reward)
        return {}


class Slow(FindTheKeeps):
    """Evaluates on another thread, later episodes before earlier ones; fails at the episodes named."""

    def __init__(self, *failing, told=None):
        super().__init__()
        self.failing, self.told, self.playing = failing, told, False
        self.threads = set()

    def reset(self, *, seed=None, options=None):
        assert not self.playing, "an episode was still being played here"
        self.playing = True
        if self.told is not None:
            self.told.append((options or {}).get("leaders"))
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, done, truncated, info = super().step(action)
        if done:
            number = round(float(action[0]) * 100)
            self.threads.add(threading.current_thread())
            time.sleep(0.004 * (number % 3 == 0))
            self.playing = False
            if number in self.failing:
                raise ArithmeticError(f"episode {number}")
        return observation, reward, done, truncated, info | {"plan": round(reward, 4)}


def test_a_batch_is_acted_in_order_then_learnt_in_order():
    agent = Counter(3)
    trials = list(search(Slow(), agent, episodes=8, seed=0))
    expected = []
    for first, last in ((0, 3), (3, 6), (6, 8)):
        expected += [("act", number) for number in range(first, last)]
        expected += [("learn", number) for number in range(first, last)]
    assert agent.calls == expected
    assert [trial.index for trial in trials] == list(range(8))
    assert [trial.index for trial in trials if trial.settled] == [2, 5, 7]
    assert all(trial.seconds > 0 for trial in trials)


def test_no_more_is_played_ahead_than_the_loop_allows():
    trials = search(FindTheKeeps(), Counter(1000), episodes=AHEAD + 5, seed=0)
    assert [trial.index + 1 for trial in trials if trial.settled] == [AHEAD, AHEAD + 5]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_several_environments_play_what_one_plays(count):
    def play(envs):
        agent = Counter(5)
        trials = list(search(envs, agent, episodes=23, seed=0))
        return agent.calls, [(t.index, t.episode.reward, t.episode.asked.tolist(), t.settled) for t in trials]

    envs = [Slow() for _ in range(count)]
    assert play(envs) == play(Slow())
    assert all(env.threads for env in envs)  # each had its share,
    here = threading.current_thread()
    assert all((env.threads == {here}) == (count == 1) for env in envs)  # several on threads of their own
    assert not [thread for env in envs for thread in env.threads - {here} if thread.is_alive()]


@pytest.mark.parametrize("count", [1, 3])
def test_every_reset_is_told_the_best_plans_before_its_batch(count):
    told, best = [], Best(2)
    for reward, plan in ((-1e9, "before"), (-2e9, "long before")):
        best.note(reward, plan, None, 0)
    envs = [Slow(told=told) for _ in range(count)]
    trials = list(search(envs, Counter(3), episodes=7, seed=0, best=best))
    first, then = (sorted({round(trial.episode.reward, 4) for trial in trials[:n]})[-2:] for n in (3, 6))
    assert told == [("before", "long before")] * 3 + [tuple(first[::-1])] * 3 + [tuple(then[::-1])]
    assert first != then
    told.clear()
    list(search(envs, Counter(1), episodes=1, seed=0))
    assert told == [None]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_trials_before_one_that_fails_are_kept_and_the_error_is_its_own(count):
    kept, agent, envs = [], Counter(6), [Slow(8, 10) for _ in range(count)]
    with pytest.raises(ArithmeticError, match="episode 8"):
        run_search(envs, agent, episodes=20, seed=0, on_episode=kept.append)
    assert [trial.index for trial in kept] == list(range(8))
    assert len(agent.learnt) == 8
    begun = [number for call, number in agent.calls if call == "act"]
    assert begun == list(range(9 if count == 1 else len(begun)))  # one environment begins nothing more


def test_an_environment_must_say_how_many_decisions_there_are_and_keep_to_it():
    class Wrong(FindTheKeeps):
        def __init__(self, said):
            super().__init__()
            self.said = said

        def reset(self, **kwargs):
            observation, _ = super().reset(**kwargs)
            return observation, {"share": 0.5} | self.said

    with pytest.raises(EpisodeError, match="no 'decisions' in the info of reset"):
        run_episode(Wrong({}), Script(0.5))
    with pytest.raises(EpisodeError, match="announced 3 decisions, but did not end after 3"):
        run_episode(Wrong({"decisions": 3}), Script(0.5))
    with pytest.raises(EpisodeError, match="announced 5 decisions, but ended after 4"):
        run_episode(Wrong({"decisions": 5}), Script(0.5))


def test_the_best_says_whether_a_trial_was_better():
    def trial(index, reward):
        row = np.zeros((1, 1), np.float32)
        return Trial(index, Episode(np.zeros((2, 1), np.float32), row, row, reward, ({},)))

    best = Best()
    assert [best.offer(trial(*item)) for item in enumerate([0.1, 0.1, 0.3, 0.2])] == [
        True,
        False,
        True,
        False,
    ]
    assert best.trial.index == 2


def test_a_best_without_its_trial_is_beaten_by_more_alone():
    best = Best()
    best.note(-0.3, "old", None, 0)
    run_search(Rewarding(-0.4, -0.3, -0.2), Script(0.5), episodes=4, start=1, seed=0, best=best)
    assert (best.trial.index, best.reward) == (3, -0.2)
