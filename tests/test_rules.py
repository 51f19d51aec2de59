"""The uniform, shallow and deep policies, against the paper's figure 2."""

import numpy as np
import pytest
from identity import FindTheKeeps

from agents import rules
from agents.damage import least
from agents.episode import StateError, run_episode
from agents.rules import Deep, LeastError, Shallow, Uniform
from amc_env.tabular import TabularEnv
from experiments.training.plan_sets import by_rule


class Share(FindTheKeeps):
    """Plain-20's 18 decisions, of 1000 choices each; the share is 0.70 until ``turn`` of them are made, then
    ``after``."""

    keeps = tuple(choice / 1000 for choice in range(1, 1001))

    def __init__(self, turn: int, after: float):
        super().__init__(np.full(18, 0.5))
        self.turn, self.after = turn, after

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation, info | {"share": 0.70, "choices": (self.keeps,) * 18, "actions": self.keeps}

    def step(self, action):
        *rest, info = super().step(action)
        share = 0.70 if len(self.kept) < self.turn else self.after
        return *rest, info | {"share": share, "actions": self.keeps}


def make(rule):
    env = FindTheKeeps()
    return rule(env.observation_space, env.action_space, seed=0)


@pytest.mark.parametrize(
    ("rule", "turn", "after", "figure"),
    [
        (Uniform, 9, 0.70, [0.70] * 18),
        (Shallow, 7, 0.774, [0.448] * 7 + [0.774] * 11),
        (Deep, 10, 0.549, [0.775] * 10 + [0.549] * 8),
    ],
)
def test_the_rules_of_figure_2(rule, turn, after, figure):
    agent = make(rule)
    for _ in range(2):  # the second episode is the first again
        episode = run_episode(Share(turn, after), agent)
        np.testing.assert_allclose(episode.asked[:, 0], figure, rtol=1e-6)


def test_the_plan_of_least_damage_is_looked_for_once(monkeypatch):
    looked = []
    monkeypatch.setattr(rules, "least", lambda *given: looked.append(1) or least(*given))
    env, other = (TabularEnv("digits", target=target, scale="absolute") for target in (0.5, 0.3))
    agent = make(LeastError)
    plans = [run_episode(one, agent).final["plan"] for one in (env, env, other, other, env)]
    assert (plans[0], plans[2]) == (plans[1], plans[3])
    assert plans[0] == plans[4] != plans[2]
    assert len(looked) == 3


@pytest.mark.parametrize("rule", [Uniform, Shallow, Deep])
def test_every_rule_spends_the_budget_on_either_scale(rule):
    plans = []
    for scale in ("absolute", "relative"):
        env = TabularEnv("fashion", target=0.5, scale=scale)
        plans.append(run_episode(env, make(rule)).final["plan"])
        assert env.budget.within(env.counts)
        last = env.counts[-1] + env.budget.dense_counts[-1] // 8
        assert last > env.budget.dense_counts[-1] or not env.budget.within([*env.counts[:-1], last])
    assert plans[0] == plans[1]


@pytest.mark.parametrize("rule", [Uniform, Shallow, Deep])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
def test_the_plan_of_a_rule_is_known_without_an_episode(rule, target):
    env = TabularEnv("fashion", target=target)
    run_episode(env, make(rule))
    assert by_rule(env.budget, make(rule)) == tuple(env.counts)


def test_uniform_asks_for_the_share_everywhere():
    env = TabularEnv("fashion", target=0.5)
    shares = [env.reset()[1]["share"]]
    episode = run_episode(env, make(Uniform))
    shares += [info["share"] for info in episode.infos[:-1]]
    assert [info["keep_asked"] for info in episode.infos] == pytest.approx(shares)


def test_a_rule_starts_anew_after_an_interrupted_episode():
    agent, env = make(Shallow), Share(7, 0.774)
    observation, info = env.reset()
    for _ in range(9):
        observation, *_, info = env.step(agent.act(observation, info, explore=True))
    np.testing.assert_allclose(run_episode(env, agent).asked[:7, 0], 0.448, rtol=1e-6)


def test_a_rule_never_asks_for_more_than_everything():
    class Rich(Share):
        def reset(self, **kwargs):
            observation, info = super().reset(**kwargs)
            return observation, info | {"share": 0.99}

    assert run_episode(Rich(18, 1.0), make(Deep)).asked.max() == 1.0


def test_a_state_of_another_rule_is_refused():
    make(Deep).load_state_dict(make(Deep).state_dict())
    assert make(Deep).end_episode(run_episode(Share(7, 0.774), make(Deep))) == {}
    with pytest.raises(StateError, match="saved with factor"):
        make(Deep).load_state_dict(make(Shallow).state_dict())
