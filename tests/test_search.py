"""The search loop: the content of an episode, what stops a search, and resume."""

import gymnasium as gym
import numpy as np
import pytest
from identity import FindTheKeeps

from agents.additive import Additive
from agents.blackbox import CMAES, RandomSearch
from agents.ddpg import DDPG
from agents.ddpg_elites import EliteDDPG
from agents.elites_alone import ElitesAlone
from agents.episode import ActionError, EpisodeError, StateError, check_state, run_episode
from agents.evopress import EvoPress
from agents.gp_errors import GPErrors
from agents.lq_cmaes import LQCMAES
from agents.rules import Deep, LeastError, Shallow, Uniform
from agents.sb3 import StableBaselines
from agents.search import AgentError, RewardError, episode_seed, search
from agents.surrogate import GP


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


def test_an_agent_learns_from_each_episode_before_the_next():
    calls = []

    class Told(Script):
        def act(self, observation, info, *, explore):
            calls.append("act")
            return super().act(observation, info, explore=explore)

        def end_episode(self, episode):
            calls.append("learn")
            return super().end_episode(episode)

    trials = list(search(Rewarding(-0.5, -0.2), Told(0.5), episodes=2, seed=0))
    assert calls == [*["act"] * 4, "learn"] * 2
    assert [(trial.index, trial.episode.reward) for trial in trials] == [(0, -0.5), (1, -0.2)]
    assert [trial.metrics for trial in trials] == [{"learnt": 1.0}, {"learnt": 2.0}]
    assert all(trial.seconds > 0 for trial in trials)


def test_the_loop_does_no_more_than_is_asked_for():
    agent = Script(0.5)
    trials = search(Rewarding(-0.1, -0.2, -0.3), agent, episodes=3, seed=0)
    next(trials), next(trials)
    assert agent.learnt == [-0.1, -0.2]


def test_every_episode_has_a_seed_of_its_own():
    env = Rewarding(*[0.0] * 6)
    for seed in (0, 1):
        list(search(env, Script(0.5), episodes=3, seed=seed))
    assert len(set(env.seeds)) == 6
    assert env.seeds == [episode_seed(seed, index) for seed in (0, 1) for index in range(3)]


def test_a_search_goes_on_where_it_stopped():
    env = Rewarding(-0.1, -0.4)
    assert [trial.index for trial in search(env, Script(0.5), episodes=1, seed=7)] == [0]
    assert [trial.index for trial in search(env, Script(0.5), episodes=2, start=1, seed=7)] == [1]
    assert env.seeds == [episode_seed(7, 0), episode_seed(7, 1)]
    assert list(search(env, Script(0.5), episodes=2, start=2, seed=7)) == []


@pytest.mark.parametrize(("episodes", "start"), [(0, 0), (-3, 0), (5, 6), (5, -1)])
def test_a_wrong_number_of_episodes_is_an_error(episodes, start):
    with pytest.raises(ValueError, match="give at least 1"):
        next(search(Rewarding(), Script(0.5), episodes=episodes, start=start, seed=0))


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
    env = Rewarding(-0.1, -0.2, reward, 0.0)
    with pytest.raises(RewardError, match=f"episode 2 ended with reward {reward}"):
        reported.extend(search(env, agent, episodes=4, seed=0))
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

    with pytest.raises(EpisodeError, match="cut off after decision 2"):
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
    with pytest.raises(EpisodeError, match="announced decisions=3, but did not end after 3"):
        run_episode(Wrong({"decisions": 3}), Script(0.5))
    with pytest.raises(EpisodeError, match="announced decisions=5, but ended after 4"):
        run_episode(Wrong({"decisions": 5}), Script(0.5))


def test_an_agent_that_returns_no_metrics_is_told():
    class Silent(Script):
        def end_episode(self, episode):
            pass

    with pytest.raises(AgentError, match="end_episode of Silent returned None: return a dict of metrics"):
        list(search(FindTheKeeps(), Silent(0.5), episodes=1, seed=0))


AGENTS = (
    Additive, CMAES, DDPG, Deep, EliteDDPG, ElitesAlone, EvoPress, GP, GPErrors, LeastError, LQCMAES,
    RandomSearch, Shallow, StableBaselines, Uniform,
)  # fmt: skip


@pytest.mark.parametrize("kind", AGENTS)
def test_no_agent_takes_rescaled_actions(kind):
    env = gym.wrappers.RescaleAction(FindTheKeeps(), np.float32(-1), np.float32(1))
    given = {"decisions": 3} if kind in (CMAES, LQCMAES, RandomSearch) else {}
    with pytest.raises(ValueError, match="leave out wrappers that rescale actions"):
        kind(env.observation_space, env.action_space, seed=0, **given)


def test_observations_of_another_type_are_read_and_of_another_form_refused(monkeypatch):
    env = FindTheKeeps()
    env.observation_space = gym.spaces.Box(0, 1, env.observation_space.shape, np.float64)
    monkeypatch.setattr(env, "_observation", lambda: np.full(4, 0.5))
    agent = DDPG(env.observation_space, env.action_space, seed=0)
    assert run_episode(env, agent).observations.dtype == np.float32
    env = gym.wrappers.FrameStackObservation(FindTheKeeps(), 2)
    with pytest.raises(ValueError, match="DDPG reads a flat vector; wrap the environment in"):
        DDPG(env.observation_space, env.action_space, seed=0)
