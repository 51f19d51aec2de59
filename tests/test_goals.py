"""Episodes with a target each: the environment, the learner, and the curve that one search gives."""

import json
import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_dir
from identity import FindTheKeeps, assert_resumes
from omegaconf import DictConfig

from agents.ddpg import DDPG
from agents.multi_target import GoalDDPG
from agents.search import Episode, StateError, run_episode, search
from amc_env.budget import BudgetError
from amc_env.tabular import TabularEnv
from amc_env.wrappers import Goals
from experiments.analysis.curve import CurveError, chosen
from experiments.cli.config import CONF
from experiments.recording.record import RunRecord, without_clock
from experiments.searching import search as job

TARGETS = (0.3, 0.5, 0.8)
SETTINGS = {"hidden": 8, "learn_after": 4, "warmup": 4, "batch": 16, "memory": 100, "revisit": 0.5}


@pytest.fixture(scope="module")
def env() -> Goals:
    return Goals(TabularEnv("digits"), TARGETS)


def agent(env: gym.Env, *, seed: int = 0, kind: type[DDPG] = GoalDDPG, **settings: object) -> DDPG:
    return kind(env.observation_space, env.action_space, seed=seed, **{**SETTINGS, **settings})


def play(env: gym.Env, action: float, **asked: object) -> list[tuple]:
    """What reset and all steps answer to an action that is repeated."""
    answers, done = [env.reset(**asked)], False
    while not done:
        answers.append(env.step(np.array([action], np.float32)))
        done = answers[-1][2]
    return answers


# -- the environment


@pytest.mark.parametrize("target", TARGETS)
def test_an_episode_is_that_of_an_environment_with_this_target_alone(env: Goals, target: float) -> None:
    alone = TabularEnv("digits", target=target)
    for action in (0.0, 0.4, 0.5, 1.0):
        ours, theirs = play(env, action, options={"target": target}), play(alone, action)
        assert ours[0][1].pop("target") == ours[-1][4].pop("target") == target
        for (observation, *rest), (expected, *others) in zip(ours, theirs, strict=True):
            assert observation.tolist() == [*expected.tolist(), np.float32(target)]
            assert rest == others
        assert ours[-1][4]["macs"] <= target * alone.budget.dense
        assert all("target" not in answer[4] for answer in ours[1:-1])


def test_targets_are_drawn_evenly_and_by_the_seed_alone(env: Goals) -> None:
    drawn = [env.reset(seed=seed)[1]["target"] for seed in range(300)]
    assert [env.reset(seed=seed)[1]["target"] for seed in range(300)] == drawn
    assert all(70 < drawn.count(target) < 130 for target in TARGETS)
    env.reset(seed=0)
    assert {env.reset()[1]["target"] for _ in range(30)} == set(TARGETS)


def test_a_target_that_is_asked_for_need_not_be_of_the_grid(env: Goals) -> None:
    assert env.reset(options={"target": 0.42})[1]["target"] == env.task.target == 0.42
    with pytest.raises(BudgetError, match="the lowest possible target is"):
        env.reset(options={"target": 0.0001})


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")
def test_the_checker_passes(env: Goals) -> None:
    check_env(env, skip_render_check=True)
    assert env.observation_space.shape == (12,)
    made = gym.make("AMC/Tabular-Digits-v0", target=0.6)
    check_env(Goals(made, TARGETS), skip_render_check=True)


def test_it_pickles_in_the_middle_of_an_episode(env: Goals) -> None:
    env.reset(seed=3)
    env.step(np.array([0.2], np.float32))
    other = pickle.loads(pickle.dumps(env))
    for action in (0.9, 0.1, 0.5, 0.5):
        ours, theirs = env.step(np.array([action], np.float32)), other.step(np.array([action], np.float32))
        assert ours[0].tolist() == theirs[0].tolist()
        assert ours[1:] == theirs[1:]
    assert [env.reset()[1] for _ in range(5)] == [other.reset()[1] for _ in range(5)]


def test_each_budget_is_built_once_and_a_twin_has_its_own_target() -> None:
    task = TabularEnv("digits", target=0.5)
    before = task.budget
    twin = task.twin(0.3)
    assert (task.target, task.budget, twin.target) == (0.5, before, 0.3)
    twin.set_target(0.5)
    assert twin.budget is before
    with pytest.raises(BudgetError):
        twin.set_target(0.0001)
    assert (twin.target, twin.budget) == (0.5, before)


@pytest.mark.parametrize("targets", [(), (0.5, 0.5)])
def test_targets_that_are_none_or_there_twice_are_refused(targets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="give at least one, and each once"):
        Goals(TabularEnv("digits"), targets)
    with pytest.raises(ValueError, match="goals are for a CompressionEnv"):
        Goals(FindTheKeeps(), (0.5,))


# -- the learner


def episode_of(reward: float, target: float | None = None, action: float = 0.5) -> Episode:
    column = np.full((4, 1), action, np.float32)
    final = {"plan": reward} | ({} if target is None else {"target": target})
    return Episode(np.eye(5, 4, dtype=np.float32), column, column, reward, ({}, {}, {}, final))


def test_baseline_and_deviation_are_of_each_goal() -> None:
    """b moves by 0.25 towards each later reward of its goal; rewards of 0.3 deviate by 0.1, of 0.8 by 0.2."""
    learner = agent(FindTheKeeps(), learn_after=99, normalise=True, baseline_rate=0.25)
    for reward, target in ((-0.6, 0.3), (-0.1, 0.8), (-0.4, 0.3), (-0.5, 0.8)):
        learner.end_episode(episode_of(reward, target))
    assert learner.goals[0.3].average == pytest.approx(-0.6 + 0.25 * 0.2)
    assert learner.goals[0.8].average == pytest.approx(-0.1 - 0.25 * 0.4)
    batch = learner.memory.sample(50)
    small = batch.goal == 0.3
    assert 0 < small.sum() < 50
    baseline, scale = learner._standard(batch)
    torch.testing.assert_close(baseline, torch.where(small, -0.55, -0.2))
    torch.testing.assert_close(scale, torch.where(small, 0.1, 0.2))


def test_good_episodes_are_of_each_goal() -> None:
    learner = agent(
        FindTheKeeps(),
        learn_after=0,
        revisit=1.0,
        revisit_changed=1e-9,
        revisit_sigma=1e-6,
        revisit_drawn=0.0,
    )
    for target in (0.3, 0.5, 0.8):
        for action in (target, target / 2):
            learner.end_episode(episode_of(-action, target, action=action))
    start = np.zeros(4, np.float32)
    for target in (0.3, 0.5, 0.8):
        asked = [
            float(learner.act(start, {"decisions": 4, "target": target}, explore=True)[0]) for _ in range(50)
        ]
        near = [min((target, target / 2), key=lambda good: abs(good - found)) for found in asked]
        np.testing.assert_allclose(asked, near, atol=1e-4)
        assert set(near) == {target, target / 2}
    learner.act(start, {"decisions": 4, "target": 0.4}, explore=True)
    assert learner._guide is None  # without an episode of its own yet


def test_without_goals_it_is_the_parent() -> None:
    env = TabularEnv("digits")
    kinds = (DDPG, GoalDDPG)
    rewards = [
        [trial.episode.reward for trial in search(env, agent(env, kind=kind), episodes=40, seed=0)]
        for kind in kinds
    ]
    assert rewards[0] == rewards[1]


def test_it_goes_on_exactly_and_only_as_itself(env: Goals) -> None:
    assert_resumes(lambda seed: agent(env, seed=seed, normalise=True), env, stop=20, episodes=40)
    with pytest.raises(StateError, match="saved with agent 'ddpg_goal'"):
        agent(env, kind=DDPG).load_state_dict(agent(env).state_dict())


def test_a_baseline_over_goals_is_refused(env: Goals) -> None:
    with pytest.raises(ValueError, match="averages over goals"):
        agent(env, baseline="batches")


def test_it_exploits_for_every_goal(env: Goals) -> None:
    learner = agent(env)
    assert run_episode(env, learner, explore=False, seed=0).final["target"] in TARGETS


# -- the main job


def config(folder: Path, *overrides: str) -> DictConfig:
    small = ["agent.hidden=8", "agent.learn_after=4", "episodes=40", "confirm=2", "save_every=5"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = ["experiment=digits", "agent=ddpg_goal", "targets=[0.3,0.5,0.8]", "deliver=false"]
        return compose("config", [*asked, *small, f"output={folder}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goals") / "run"
    job.search(config(folder), folder)
    return folder


def test_the_curve_is_of_the_best_plan_within_each_target_and_never_falls(finished: Path) -> None:
    record = RunRecord.read(finished)
    curve = record.content["results"]["curve"]
    assert [point["target"] for point in curve] == [0.3, 0.5, 0.8]
    assert {row["target"] for row in record.rows} == set(TARGETS)
    accuracies = [point["selection"] for point in curve]
    assert accuracies == sorted(accuracies)
    tried = {one["episode"]: one["selection"] for one in record.content["results"]["candidates"]}
    for point in curve:
        row = record.rows[point["episode"]]
        assert (point["counts"], point["reward"]) == (row["counts"], row["reward"])
        assert point["macs_share"] == row["macs_share"] <= point["target"]
        within = [top1 for at, top1 in tried.items() if record.rows[at]["macs_share"] <= point["target"]]
        assert point["selection"] == tried[point["episode"]] == max(within)
        assert point["uniform"]["macs_share"] <= point["target"]
    assert record.content["best"]["macs_share"] <= 0.5  # the protocol's target
    assert record.content["best"]["counts"] == curve[1]["counts"]
    assert (finished / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_table_of_the_curve_is_shown(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.analysis.curve import show

    curve = RunRecord.read(finished).content["results"]["curve"]
    show(curve, finished / "curve.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:-2] if line.strip()][-3:] == ["30.0", "50.0", "80.0"]


def test_a_killed_search_ends_with_the_record_of_one_that_was_not(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn, add = tmp_path / "torn", RunRecord.add

    def die(self: RunRecord, **row: object) -> None:
        add(self, **row)
        if row["episode"] == 23:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", die)
    with pytest.raises(KeyboardInterrupt):
        job.search(config(torn), torn)
    monkeypatch.setattr(RunRecord, "add", add)
    job.search(config(torn), torn)
    ours, theirs = RunRecord.read(torn), RunRecord.read(finished)
    assert json.dumps(without_clock(ours.rows)) == json.dumps(without_clock(theirs.rows))
    assert ours.content["best"] == theirs.content["best"]
    assert without_clock(ours.content["results"]) == without_clock(theirs.content["results"])


def test_a_budget_without_any_plan_is_told() -> None:
    with pytest.raises(CurveError, match=r"no episode of the search is within 0\.3 of the MACs"):
        chosen(TabularEnv("digits", target=0.3), [])
