"""The environment: its contract, its books, and everything that can be asked of it wrongly."""

import itertools
import math
import pickle
import warnings
from contextlib import contextmanager

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
from torch import nn

import amc_env  # noqa: F401 - registers the ids
from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.budget import BudgetError
from amc_env.checkpoints import CheckpointError
from amc_env.compressors.surgery import cut
from amc_env.data.splits import DataError, data_folder, load
from amc_env.env import CompressionEnv
from amc_env.evaluator import EvaluationError, accuracy
from amc_env.graph.trace import TraceError
from amc_env.observation import FEATURES
from amc_env.plan import Plan, PlanError

SMALL = {"calibration_images": 100, "points": 10, "reward_images": 40}  # more rows than a layer has inputs
TINY = "Test/TinyCNN-Digits-v0"
IDS = sorted(id_ for id_, spec in gym.registry.items() if "checkpoint" in spec.kwargs)


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
    return CompressionEnv(
        zoo.build("digits_cnn", classes=10, in_channels=1), load("digits"), **SMALL | options
    )


def make(name="chain", **options):
    return CompressionEnv(network(name), images(), **{"round_to": 1} | SMALL | options)


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


# --- the contract


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


@pytest.mark.parametrize("env_id", [TINY, *IDS])
def test_both_checkers_pass_without_a_single_warning(env_id):
    env = registered(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=env_id != TINY)
        symmetric = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
        symmetric.action_space.seed(0)
        sb3_check_env(symmetric)


@pytest.mark.parametrize("env_id", [TINY, *IDS])
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
    episode(CompressionEnv(model, images(), **SMALL), [0.4])
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
    assert info == {"share": env.budget.share([]), "decisions": len(env.graph.groups)}
    assert env.reset()[1] == info
    assert env.plan == Plan.dense(env.graph)  # nothing of the last episode is left
    share, counts = info["share"], []
    for t, (observation, _, _, truncated, info) in enumerate(steps):
        asked, size = float(np.float32(actions[t])), len(env.graph.groups[t])
        keep = asked if scale == "absolute" else min(1.0, share * math.exp(0.7 * (2 * asked - 1)))
        assert (info["action_asked"], info["keep_asked"]) == (asked, pytest.approx(keep))
        assert info["keep_applied"] == min(env.budget.snap(t, keep) / size, info["keep_bound"])
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
    small = cut(env.model, env.graph, plan, env.solve).eval()
    assert info["top1"] == accuracy(small, env.data, "reward")
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
        keep >= env.budget.snap(g, first) / len(env.graph.groups[g])
        for g, keep in enumerate(info["plan"].keeps(env.graph))
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
    refitted, dropped = (episode(make("chain", refit=refit), [0.5])[-1][4] for refit in ("moments", "none"))
    assert refitted["plan"] == dropped["plan"]
    assert refitted["kl"] < dropped["kl"]


def test_parameters_and_bytes_can_be_what_is_limited():
    for resource in ("params", "bytes"):
        env = make("chain", resource=resource, target=0.3)
        info = episode(env, [0.9])[-1][4]
        assert info["params"] <= 0.3 * env.params(env.budget.widths([]))


# --- the best plans so far


def with_leaders(env, actions, *leaders):
    """The last info of an episode that was told the best plans so far."""
    env.reset(options={"leaders": leaders})
    for action in actions:
        *_, info = env.step(np.array([action], dtype=np.float32))
    return info


def test_a_plan_that_is_far_worse_than_a_leader_ends_with_fewer_images():
    """A batch holds up to 50 of these images: of 240, the first look is after 50."""
    settings = {"reward": "agreement", "target": 1.0, "scale": "absolute", "refit": "none"}
    data = images(1000, held_out=(100, 240, 40))
    settings |= {"reward_images": None, "block": 50, "rank": 2}
    env = CompressionEnv(network("residual"), data, **SMALL | settings)
    good = itertools.product((1.0, 0.8), (1.0, 0.75, 0.5), (1.0, 0.8))
    best, *others = (with_leaders(env, actions) for actions in list(good)[:10])
    leaders = [info["plan"] for info in (best, *others)]
    assert len(set(leaders)) == 10
    assert (best["n_images"], best["agreement"]) == (240, 1)
    poor = with_leaders(env, [0.4] * 3, *leaders)
    assert poor["n_images"] < 240
    assert poor["agreement"] < best["agreement"]
    whole = with_leaders(env, [0.4] * 3)
    assert whole["n_images"] == 240
    assert abs(poor["top1"] - whole["top1"]) < 0.2
    assert poor["std_error"] > whole["std_error"]
    assert with_leaders(env, [1.0] * 3, *leaders) == best
    assert with_leaders(env, [0.4] * 3, *leaders) == poor
    assert with_leaders(env, [0.4] * 3, *leaders[:9]) == whole


def test_leaders_are_of_one_episode_and_change_nothing_without_a_rule():
    env = reused("chain", "relative", block=None)
    first = episode(env, [0.2])[-1]
    best = episode(env, [0.9])[-1][4]["plan"]
    told = with_leaders(env, [0.2] * 3, best)
    assert env.leaders == (best,)
    assert flat([(told,)]) == flat([(first[4],)])
    env.reset()
    assert env.leaders == ()


def test_a_leader_of_another_network_is_refused():
    with pytest.raises(PlanError, match="the plan was made for the network"):
        make("chain").reset(options={"leaders": [Plan.dense(make("residual").graph)]})


@pytest.mark.parametrize("options", [{}, {"refit": "sequential"}])
def test_episodes_are_the_same_with_and_without_kept_prefixes(options):
    actions = ([0.3], [0.8], [0.8], [0.6])
    plain, kept = make(**options), make(prefix_mb=1, **options)
    assert [flat(episode(plain, action)) for action in actions] == [
        flat(episode(kept, action)) for action in actions
    ]
    assert (kept.evaluator._prefixes is None) == bool(options)
    with pytest.raises(ValueError, match="prefix_mb is -1"):
        make(prefix_mb=-1)


def test_episodes_are_the_same_without_a_memo_with_a_cold_and_with_a_warm_one(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    actions = [[0.3], [0.9, 0.1], [0.3]]
    cold, warm = [
        [flat(episode(env, action)) for action in actions] for env in (make(memo=True), make(memo=True))
    ]
    assert cold == warm == [flat(episode(make(), action)) for action in actions]
    reader = make(memo=True)
    episode(reader, [0.3])
    assert (reader.evaluator.forwards, reader.evaluator.evaluations) == (40, 0)
    for options in ({"seed": 1}, {"points": 9}, {"refit": "none"}, {"calibration_images": 39}):
        other = make(memo=True, **options)
        episode(other, [0.3])
        assert other.evaluator.evaluations == 1, options


# --- bad input


@pytest.mark.parametrize("action", [math.nan, math.inf, -0.001, 1.001, [0.5, 0.5], []])
def test_an_action_that_is_not_one_number_in_the_unit_interval(action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match=r"action of decision 0 is .*, not one number in \[0, 1\]"):
        env.step(np.atleast_1d(action))
    assert env.plan == Plan.dense(env.graph)  # nothing was decided


def test_a_step_after_the_last_one():
    env = make()
    episode(env, [0.5])
    with pytest.raises(RuntimeError, match="all 3 decisions are made; call reset"):
        env.step(np.array([0.5]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resource": "flops"}, "unknown resource 'flops'; there are macs, params, bytes"),
        ({"reward": "accuracy"}, "unknown reward 'accuracy'; there are error, error_top5, flops"),
        ({"scale": "log"}, "unknown scale 'log'; there are absolute, relative"),
        ({"render_mode": "human"}, "unknown render_mode 'human'; there are None, ansi, rgb_array"),
        ({"beta": 0}, "beta is 0, it must be above 0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"calibration_images": 0}, "calibration_images is 0"),
        ({"points": -1}, "points is -1"),
        ({"reward_images": 0}, "reward_images is 0"),
        ({"block": 0}, "block is 0, it must be above 0"),
        ({"rank": 0}, "rank is 0, it must be above 0"),
        ({"confidence": 0.0}, "confidence is 0"),
        ({"floor": 0}, r"floor .* in \(0, 1\], not 0"),
        ({"round_to": 0}, "round_to .* at least 1, not 0"),
    ],
)
def test_a_wrong_setting_says_what_is_possible(options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)


@pytest.fixture
def no_long_work(monkeypatch):
    """Fail where moments would be collected."""

    def collected(*args, **kwargs):
        raise AssertionError("long work was begun")

    monkeypatch.setattr("amc_env.env.collect_cached", collected)


@pytest.mark.usefixtures("no_long_work")
def test_what_does_not_fit_is_found_before_any_long_work():
    with pytest.raises(BudgetError, match="lowest possible target is"):
        make(target=0.001)
    with pytest.raises(BudgetError, match=r"in \(0, 1\], not 1\.5"):
        make(target=1.5)
    with pytest.raises(DataError, match=r"Plain cannot take the images of noise, \(1, 8, 8\) each"):
        CompressionEnv(zoo.build("plain20", classes=4, in_channels=3), images())
    with pytest.raises(DataError, match=r"Sequential gives \(4,\) outputs for an image, noise has 7 classes"):
        CompressionEnv(network("chain"), images(classes=7))
    with pytest.raises(DataError, match="gives tuple for an image"):
        CompressionEnv(Pair(), images())
    damaged = network("chain")
    damaged[0][0].weight.data[0] = math.nan
    with pytest.raises(EvaluationError, match=r"0\.0\.weight holds NaN or infinity"):
        CompressionEnv(damaged, images())
    with pytest.raises(TraceError, match="nothing to decide in Sequential: it has no layer whose inputs"):
        CompressionEnv(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), images())


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_a_reward_that_is_not_finite_stops_the_search(monkeypatch):
    env = make()
    monkeypatch.setattr(env, "reward", lambda evaluation, macs, params: math.nan)
    with pytest.raises(
        EvaluationError, match=r"the reward of plan \w+ is nan; measured was Evaluation\(top1"
    ):
        episode(env, [0.5])


def test_ones_own_network_and_images_in_a_few_lines():
    env = CompressionEnv(network("concat"), images(), target=0.6)
    info = episode(env, [0.5])[-1][4]
    assert info["macs"] <= 0.6 * env.budget.dense
    assert env.data.shape == SHAPE
