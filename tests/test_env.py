"""The environment: its contract, its accounting, and wrong calls."""

import doctest
import math
import pickle
import warnings
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from generators import global_state
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, SHAPE, images, network
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import amc_env
from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.budget import snap
from amc_env.building import make_env
from amc_env.card import CheckpointError
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.compressors.surgery import cut
from amc_env.data.splits import data_folder, load
from amc_env.env import CompressionEnv
from amc_env.evaluator import accuracy
from amc_env.graph.trace import trace
from amc_env.metrics import Evaluation
from amc_env.observation import FEATURES
from amc_env.plan import Plan

SMALL = {
    "calibration_images": 100,
    "points": 10,
    "reward_images": 40,
    "repair": "moments",
}  # more rows than a layer has inputs
TINY = "Test/TinyCNN-Digits-v0"
IDS = sorted(id_ for id_, spec in gym.registry.items() if "checkpoint" in spec.kwargs)
DEEP = [pytest.param(id_, marks=pytest.mark.slow) for id_ in IDS if "FashionMNIST" in id_]
EVERY = [TINY, *(id_ for id_ in IDS if "FashionMNIST" not in id_), *DEEP]


@pytest.fixture(autouse=True, scope="module")
def moments(tmp_path_factory):
    """Moments in a folder of this file's own, and an id with random weights, which no checkpoint can lack."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "data").symlink_to(data_folder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_CACHE", str(folder))
        gym.register(TINY, tiny_digits)
        yield
        del gym.registry[TINY]


def tiny_digits(**options):
    return make_env(zoo.build("digits_cnn", classes=10, in_channels=1), load("digits"), **SMALL | options)


def make(name="chain", **options):
    return make_env(network(name), images(), **{"round_to": 1} | SMALL | options)


def episode(env, actions, seed=None):
    """What reset and all steps answer; actions are repeated to the end."""
    answers, done = [env.reset(seed=seed)], False
    while not done:
        action = actions[(len(answers) - 1) % len(actions)]
        answers.append(env.step(np.array([action], dtype=np.float32)))
        done = answers[-1][2]
    return answers


def flat(answers):
    """The same with arrays as bytes, so that == compares everything."""
    return [
        tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in answer)
        for answer in answers
    ]


def registered(env_id, **options):
    """The environment of an id; skips where there is no checkpoint of it yet, or not its data."""
    if env_id != TINY:
        try:
            stem = weights.shipped(gym.spec(env_id).kwargs["checkpoint"])
        except CheckpointError as error:
            pytest.skip(str(error))
        name = weights.read_card(stem).data
        if name != "digits" and not (data_folder() / f"{name}.safetensors").exists():
            pytest.skip(f"no {name} on this machine: python -m experiments.fetch data={name}")
    return gym.make(env_id, **SMALL | options)


@pytest.mark.parametrize("env_id", EVERY)
def test_both_checkers_pass_without_a_single_warning(env_id):
    env = registered(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=env_id != TINY)
        symmetric = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
        symmetric.action_space.seed(0)
        sb3_check_env(symmetric)


@pytest.mark.parametrize("env_id", EVERY)
def test_equal_seeds_equal_episodes_infos_included_and_no_global_generator_moves(env_id):
    env = registered(env_id, target=0.4)
    before = global_state()
    actions = np.random.default_rng(7).random(100)
    first = flat(episode(env, actions, seed=7))
    assert flat(episode(env, actions, seed=7)) == first
    assert flat(episode(env, actions, seed=8)) == first  # nothing in it is drawn
    assert global_state() == before


def test_two_environments_made_alike_are_alike():
    assert flat(episode(make(), [0.3, 0.8])) == flat(episode(make(), [0.3, 0.8]))


def test_building_one_moves_no_global_generator_and_no_weight():
    model = network("residual").train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = global_state()
    episode(make_env(model, images(), **SMALL), [0.4])
    assert global_state() == before
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_an_environment_travels_in_the_middle_of_an_episode():
    env = make("residual")
    env.reset()
    env.step(np.array([0.7], dtype=np.float32))
    there = pickle.loads(pickle.dumps(env))
    for action in (0.2, 0.9):
        here_and_there = [e.step(np.array([action], dtype=np.float32)) for e in (env, there)]
        assert flat(here_and_there[:1]) == flat(here_and_there[1:])


@contextmanager
def two_threads():
    """Started, so that a fork inside leaves its child waiting for threads that were not copied."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 20).sum()
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_at_once(mode):
    with two_threads():
        envs = gym.make_vec(TINY, num_envs=2, vectorization_mode=mode, target=0.5)
    try:
        observations, infos = envs.reset(seed=3)
        assert observations.shape == (2, 11)
        assert infos["decisions"].tolist() == [5, 5]
        for _ in range(5):
            _, rewards, terminated, _, infos = envs.step(np.array([[0.2], [0.8]], dtype=np.float32))
    finally:
        envs.close()
    assert terminated.tolist() == [True, True]
    alone = [episode(tiny_digits(), [action])[-1] for action in (0.2, 0.8)]
    assert rewards.tolist() == [answer[1] for answer in alone]
    assert [plan.hash for plan in infos["plan"]] == [answer[4]["plan"].hash for answer in alone]


# --- the books of an episode

names_, scales_ = st.sampled_from(sorted(NETWORKS)), st.sampled_from(["absolute", "relative"])
actions_ = st.lists(st.floats(0, 1), min_size=6, max_size=6)
quick = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
_made = {}


def reused(name, scale, target=0.5, **options):
    """Environments cost more to make than to play."""
    key = (name, scale, target, *options.items())
    if key not in _made:
        _made[key] = make(name, scale=scale, target=target, **options)
    return _made[key]


@quick
@given(names_, scales_, actions_)
def test_every_step_says_what_was_asked_allowed_and_done(name, scale, actions):
    env = reused(name, scale)
    (_, info), *steps = episode(env, actions)
    described = {
        "choices": env.budget.keeps,
        "costs": env.budget.cost_tables,
        "errors": tuple(env.compressor.errors),
        "losses": tuple(env.compressor.losses),
    }
    asking = {"actions": tuple(env.scale.to_action(keep, info["share"]) for keep in env.budget.keeps[0])}
    assert info == {"share": env.budget.share([]), "decisions": len(env.graph.groups)} | described | asking
    assert env.reset()[1] == info
    assert env.plan == Plan.dense(env.graph)  # nothing of the last episode is left
    share, counts = info["share"], []
    for t, (observation, _, _, truncated, info) in enumerate(steps):
        asked, size = float(np.float32(actions[t])), len(env.graph.groups[t])
        keep = asked if scale == "absolute" else min(1.0, share * math.exp(0.7 * (2 * asked - 1)))
        assert (info["action_asked"], info["keep_asked"]) == (asked, pytest.approx(keep))
        assert info["keep_applied"] == env.budget.take(counts, keep)[0] / size
        meant = env.scale.to_keep(info["action_executed"], share)
        assert meant == pytest.approx(info["keep_applied"]) or info["action_executed"] in (
            0,
            1,
        )  # out of reach
        assert observation[FEATURES.index("previous")] == pytest.approx(info["keep_applied"])
        assert not truncated
        counts.append(round(size * info["keep_applied"]))
        share = info["share"]
        assert share == env.budget.share(counts)
    assert [answer[2] for answer in steps] == [False] * (len(steps) - 1) + [True]
    assert [answer[1] for answer in steps[:-1]] == [0.0] * (len(steps) - 1)


@quick
@given(names_, scales_, actions_)
def test_asking_for_what_was_executed_does_it_again(name, scale, actions):
    """Replay stores the executed action, as float32; it must mean what was done."""
    env = reused(name, scale)
    first = episode(env, actions)[1:]
    again = episode(env, [answer[4]["action_executed"] for answer in first])[1:]
    assert again[-1][4]["plan"] == first[-1][4]["plan"]
    assert again[-1][1] == first[-1][1]


@quick
@given(names_, scales_, actions_)
def test_the_last_step_measures_the_plan_that_the_steps_made(name, scale, actions):
    env = reused(name, scale)
    *_, (_, reward, _, _, info) = answers = episode(env, actions)
    plan = info["plan"]
    plan.check(env.graph)
    assert plan.keeps(env.graph) == [answer[4]["keep_applied"] for answer in answers[1:]]
    small = cut(env.task.model, env.graph, plan, env.task.solve).eval()
    assert info["top1"] == accuracy(small, env.task.data, "reward")
    assert reward == info["top1"] - 1
    assert info["n_images"] == 40
    assert info["std_error"] == pytest.approx(math.sqrt(info["top1"] * (1 - info["top1"]) / 40))
    assert info["params"] == sum(parameter.numel() for parameter in small.parameters())
    assert info["macs"] <= 0.5 * env.budget.dense


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_middle_of_the_relative_scale_is_asking_for_the_share(name, target):
    middle = episode(reused(name, "relative", target), [0.5])
    env = reused(name, "absolute", target)
    _, info = env.reset()
    done = False
    while not done:
        *_, done, _, info = env.step(np.array([info["share"]], dtype=np.float32))
    assert info["plan"] == middle[-1][4]["plan"]
    first = env.budget.share([])
    assert all(
        keep >= snap(choices, np.array(first * choices[-1])) / choices[-1]
        for choices, keep in zip(env.budget.choices, info["plan"].keeps(env.graph), strict=True)
    )


def test_macs_fall_with_every_decision_and_the_last_are_those_of_the_network():
    env = make("separable", target=0.4)
    answers = episode(env, [0.2])
    macs = [answer[4]["macs"] for answer in answers[1:]]
    assert macs == sorted(macs, reverse=True)
    reduced = [1 - answer[4]["macs"] / env.budget.dense for answer in answers[1:]]
    assert [answer[0][8] for answer in answers] == pytest.approx([0, *reduced])  # the feature "reduced"


def test_accuracy_guaranteed_search_has_no_bound_and_weighs_the_cost():
    env = make("chain", target=1.0, scale="absolute", reward="flops")
    whole = episode(env, [1.0])[-1][4]
    assert whole["plan"].keeps(env.graph) == [1, 1, 1]
    assert whole["macs"] == env.budget.dense
    assert whole["agreement"] == 1
    *_, (_, reward, _, _, info) = answers = episode(env, [0.4, 0.9])
    assert all(answer[4]["keep_bound"] == 1 for answer in answers[1:])
    assert reward == pytest.approx((info["top1"] - 1) * math.log(info["macs"]))


def test_the_refit_comes_closer_to_the_dense_network_than_dropping_does():
    refitted, dropped = (
        episode(make("chain", repair=repair), [0.5])[-1][4] for repair in ("moments", "none")
    )
    assert refitted["plan"] == dropped["plan"]
    assert refitted["kl"] < dropped["kl"]


def test_parameters_can_be_what_is_limited():
    env = make("chain", resource="params", target=0.3)
    info = episode(env, [0.9])[-1][4]
    assert info["params"] <= 0.3 * env.costs([])["params"]


def test_ones_own_network_and_images_in_a_few_lines():
    env = make_env(network("concat"), images(), target=0.6)
    info = episode(env, [0.5])[-1][4]
    assert info["macs"] <= 0.6 * env.budget.dense
    assert env.task.data.shape == SHAPE


def test_an_environment_is_composed_of_any_compressor_and_any_evaluator():
    """It asks the evaluator once, for the plan that the actions made."""
    graph, asked = trace(network("chain"), SHAPE), []

    def evaluator(plan):
        asked.append(plan)
        return Evaluation(0.75, 1.0, 0.5, 0.9, 0.1, 40, "reward")

    env = CompressionEnv(
        Channels(graph, magnitude_orders(network("chain"), graph), round_to=1), evaluator, target=0.5
    )
    *_, (_, reward, _, _, info) = episode(env, [0.5])
    assert (reward, asked) == (-0.25, [info["plan"]])
    assert env.task is None


def test_the_docstring_of_the_class_is_right():
    failed, tried = doctest.testmod(amc_env.env)
    assert failed == 0 < tried


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_render(mode):
    env = make(render_mode=mode)
    env.reset()
    before = env.render()
    env.step(np.array([0.5], dtype=np.float32))
    after = env.render()
    if mode == "ansi":
        assert before.endswith("cost 100.0 % of the dense network")
        assert [line.split("|")[1].strip()[-1:] for line in after.splitlines()[:3]] == ["#", ".", "."]
    else:
        assert before.shape == after.shape
        assert (before != after).any()
    assert make().render() is None


@pytest.mark.parametrize("env_id", ["AMC/TinyCNN-Digits-v0", "AMC/Tabular-Digits-v0"])
def test_the_modes_that_gymnasium_makes_of_the_declared_ones(env_id):
    """The registered entry points are classes, whose metadata `gym.make` reads."""
    env = gym.make(env_id, render_mode="rgb_array_list")
    env.reset(seed=0)
    for _ in range(2):
        env.step(np.array([0.5], dtype=np.float32))
    pictures = env.render()
    assert len(pictures) == 3
    assert (pictures[0] != pictures[2]).any()
    assert gym.make(env_id, render_mode="ansi").unwrapped.render_mode == "ansi"


def test_the_examples_of_the_readme_are_right():
    text = Path(amc_env.__file__).with_name("README.md").read_text().replace("```", "")
    examples = doctest.DocTestParser().get_doctest(text.replace("pycon", ""), {}, "README.md", None, 0)
    failed, tried = doctest.DocTestRunner().run(examples)
    assert failed == 0 < tried
