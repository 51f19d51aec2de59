"""The tabular benchmark agrees with the evaluator and with `CompressionEnv`."""

import itertools
import json
import pickle
import sys
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import rewriting
from gymnasium.utils.env_checker import check_env
from networks import network
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import amc_env  # noqa: F401 - registers the ids
from agents.episode import run_episode
from agents.rules import Uniform
from amc_env import checkpoints as weights
from amc_env import files, tabular, zoo
from amc_env.budget import Budget, BudgetError
from amc_env.compressors.channels import magnitude_orders
from amc_env.compressors.networks import CutNetworks
from amc_env.cost import RESOURCES, WidthTable
from amc_env.data.splits import DataError
from amc_env.env import CompressionEnv
from amc_env.evaluator import Evaluator
from amc_env.graph.trace import trace
from amc_env.metrics import Evaluation
from amc_env.plan import Plan
from amc_env.repair.elimination import orders
from amc_env.repair.moments import collect
from amc_env.repair.sensitivity import errors
from amc_env.tabular import COUNTED, REAL, Card, Levels, Table, TableError, TabularEnv
from experiments.searching import tabulate

IDS = {"AMC/Tabular-Digits-v0": "digits", "AMC/Tabular-Fashion-v0": "fashion"}
SHAPE = (8,) * 5
IMAGES = 1000


@pytest.fixture(scope="module")
def made():
    """A table of random evaluations of a network with random weights."""
    graph = trace(zoo.build("fashion_cnn", classes=10, in_channels=1), (1, 28, 28))
    rng = np.random.default_rng(0)
    levels = Levels(graph, [rng.permutation(len(group)) for group in graph.groups])
    columns = {name: rng.integers(0, IMAGES, SHAPE).astype(np.uint16) for name in COUNTED}
    columns |= {name: rng.random(SHAPE).astype(np.float32) for name in REAL}
    columns |= {name: cost.astype(np.int32).reshape(SHAPE) for name, cost in tabular.costs(levels).items()}
    card = Card(
        "fashion_cnn", {}, 8, "magnitude", 10, (1, 28, 28), "none", (1, 1, 1), "made", "", 1, 1, 0, IMAGES,
        graph.hash, "unknown",
    )  # fmt: skip
    return Table(card, levels, columns)


@pytest.fixture(scope="module")
def shipped():
    tables = {}

    def load(name):
        if name not in tables:
            tables[name] = tabular.load(name)
        return tables[name]

    return load


def play(env, actions):
    env.reset(seed=0)
    return [env.step(np.array([action], np.float32)) for action in actions]


# --- what ships


QUICK = ("digits", "digits_residual")  # whose images come with scikit-learn
MARKED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in tabular.names()]


@pytest.mark.parametrize("name", MARKED)
def test_a_table_is_what_the_evaluator_says(shipped, name):
    table = shipped(name)
    model, card = weights.load(weights.shipped(table.card.checkpoint))
    assert card.sha256 == table.card.checkpoint_sha256
    try:
        data = tabulate.data_of(table.card.data, table.card.held_out)
    except DataError as error:
        pytest.skip(str(error))
    graph, compressor = table.compressor.graph, table.compressor
    moments = tabulate.moments_of(table.card, model, data)
    evaluator = Evaluator(CutNetworks(model, graph, moments.solve), data, images=table.card.n_images)
    everything = tabular.plans(compressor)
    assert table(Plan.dense(graph)) == table(everything[-1])
    for index in np.random.default_rng(0).choice(len(everything), 12, replace=False):
        measured, held = evaluator(everything[index]), table(everything[index])
        assert held.n_images == measured.n_images
        for column in COUNTED:  # other processors round differently: one image may change sides
            assert getattr(held, column) == pytest.approx(getattr(measured, column), abs=1.5 / held.n_images)
        for column in REAL:
            assert getattr(held, column) == pytest.approx(getattr(measured, column), rel=1e-3, abs=1e-6)
    ranked = (
        orders(model, graph, moments) if table.card.order == "elimination" else magnitude_orders(model, graph)
    )
    assert [order.tolist() for order in compressor.orders] == [order.tolist() for order in ranked]
    again = errors(model, graph, moments, compressor.orders, compressor.choices)
    np.testing.assert_allclose(compressor.errors, again, atol=1e-4)


@pytest.mark.parametrize("name", tabular.names())
def test_tables_are_small_and_whole(shipped, name):
    table = shipped(name)
    assert (tabular.TABLES / f"{name}.npz").stat().st_size < 5e6
    shape = (table.card.levels,) * len(table.compressor.graph.groups)
    assert {column.shape for column in table.columns.values()} == {shape}
    everything = list(itertools.product(*table.compressor.choices))
    for index in np.random.default_rng(0).choice(len(everything), 20):
        widths = WidthTable(table.compressor.graph, table.compressor.orders).widths(everything[index])
        for resource in ("macs", "params"):
            assert table.columns[resource].ravel()[index] == RESOURCES[resource](table.compressor.graph)(
                widths
            )
    assert all(np.isfinite(table.columns[column]).all() for column in REAL)
    assert all(table.columns[column].max() <= table.card.n_images for column in COUNTED)
    source = tabulate.SOURCES[name]
    assert (table.card.architecture, table.card.options) == (source.architecture, dict(source.options))
    for group, curve in zip(table.compressor.graph.groups, table.compressor.errors, strict=True):
        assert sorted(curve, reverse=True) == list(curve)  # more channels, less error
        assert len(group.layers) > curve[0] > curve[-1] == pytest.approx(0, abs=1e-9)


def test_all_tables_together_are_below_twenty_megabytes():
    assert sum(path.stat().st_size for path in tabular.TABLES.glob("*.npz")) < 20e6
    assert set(tabular.names()) <= set(tabulate.SOURCES)


def test_evaluating_plans_in_their_order_is_evaluating_each():
    """By hand on a residual network, whose decisions reach over blocks: every plan as `Evaluator` has it."""
    options = {"widths": (4, 4, 8), "strides": (2, 1, 2), "block": "residual"}
    model = zoo.build("tiny", classes=10, in_channels=1, **options).eval()
    data = tabulate.data_of("digits", (200, 700, 200))
    graph = trace(model, data.shape)
    assert tabulate.reach(graph, 3) == [1, 2, 4]
    levels = Levels(graph, magnitude_orders(model, graph), 2)
    moments = collect(model, graph, data, images=50, points=4, seed=0)
    everything = tabular.plans(levels)
    split = data["reward"].head(60)
    found = list(tabulate.evaluations(model, graph, moments, split, data, everything))
    evaluator = Evaluator(CutNetworks(model, graph, moments.solve), data, images=60)
    for ours, plan in zip(found, everything, strict=True):
        assert ours.loss == pytest.approx(evaluator(plan).loss, rel=1e-4)
        assert ours.kl == pytest.approx(evaluator(plan).kl, rel=1e-3, abs=1e-6)


def test_what_is_missing_or_of_another_network_is_made_again(made, tmp_path):
    source = tabulate.Source("fashion_cnn", "none", (1, 1, 1), IMAGES, tabulate.Recipe())
    assert not tabulate.whole("mine", source, tmp_path)
    tabular.save("mine", made, tmp_path)
    assert tabulate.whole("mine", source, tmp_path)
    assert not tabulate.whole("mine", replace(source, levels=4), tmp_path)


@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_pass_without_a_single_warning(env_id):
    env = gym.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=False)
        symmetric = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
        symmetric.action_space.seed(0)
        sb3_check_env(symmetric)


# --- the environment


@pytest.mark.parametrize(("scale", "target"), [("relative", 0.3), ("absolute", 0.5)])
def test_it_answers_as_the_environment_whose_class_it_is(made, scale, target):
    """The same compressor and evaluations behind `CompressionEnv` alone: each part of each step is equal."""
    settings = {"target": target, "scale": scale}
    plain = CompressionEnv(made.compressor, made, **settings)
    env = TabularEnv(made, **settings)
    assert env.reset(seed=0)[1] == plain.reset(seed=0)[1]
    rng = np.random.default_rng(1)
    for _ in range(20):
        actions = rng.random(5)
        for ours, theirs in zip(play(env, actions), play(plain, actions), strict=True):
            assert ours[0].tobytes() == theirs[0].tobytes()
            assert ours[1:] == theirs[1:]


def test_the_reward_is_the_tables(made):
    env = TabularEnv(made, target=0.5, scale="absolute", reward="loss")
    *_, (_, reward, terminated, _, info) = play(env, [0.6, 0.26, 0.99, 0.13, 0.5])
    index = (3, 1, 6, 0, 3)  # the largest eighths that are no more
    assert terminated
    assert reward == -float(made.columns["loss"][index])
    assert info["top1"] == made.columns["top1"][index] / IMAGES
    assert info["macs"] == made.columns["macs"][index] == env.costs(env.counts)["macs"]


def test_no_plan_of_an_episode_is_over_the_budget(made):
    env = TabularEnv(made, target=0.3)
    for seed in range(50):
        *_, (*_, info) = play(env, np.random.default_rng(seed).random(5))
        assert info["macs"] <= env.budget.limit


def test_an_episode_is_a_few_hundred_calls(made):
    """Counted in Python's calls instead of seconds: six hundred take about a millisecond."""
    env, actions = TabularEnv(made), np.random.default_rng(0).random((5, 1)).astype(np.float32)
    env.reset()
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        env.reset()
        for action in actions:
            env.step(action)
    finally:
        sys.setprofile(None)
    assert calls < 700


def test_it_travels(made):
    env = TabularEnv(made)
    play(env, [0.2, 0.7])
    there = pickle.loads(pickle.dumps(env))
    assert there.step(np.array([0.4]))[4] == env.step(np.array([0.4]))[4]


# --- the known best


def test_the_known_best_is_the_maximum_within_the_budget(made):
    for target, resource in ((0.3, "macs"), (0.5, "params")):
        counts, best = made.known_best(target, resource)
        price = made.compressor.prices(resource)
        budget = Budget(made.compressor, {resource: target})
        rng, everything = np.random.default_rng(0), tabular.plans(made.compressor)
        assert price(counts) <= budget.limit
        for index in rng.choice(len(everything), 300):
            plan = everything[index]
            if price([len(kept) for kept in plan.kept]) <= budget.limit:
                assert made(plan).top1 <= best.top1
        within = made.columns[resource] <= budget.limit
        assert best.top1 == made.columns["top1"][within].max() / IMAGES
        assert best.loss == made.columns["loss"][within & (made.columns["top1"] == best.top1 * IMAGES)].min()
    assert TabularEnv(made, target=0.3).known_best == made.known_best(0.3)[1]


def test_the_known_best_is_within_further_limits(made):
    counts, _ = made.known_best(0.5)
    share = 0.99 * Budget(made.compressor, {"params": 1.0}).spent(counts)  # too few for the best of all
    within = np.ones(made.columns["top1"].shape, dtype=bool)
    for name, target in (("macs", 0.5), ("params", share)):
        within &= made.columns[name] <= Budget(made.compressor, {name: target}).limit
    limited, best = made.known_best(0.5, limits={"params": share})
    assert made.compressor.prices("params")(limited) < made.compressor.prices("params")(counts)
    assert best.top1 == made.columns["top1"][within].max() / IMAGES
    assert TabularEnv(made, target=0.5, limits={"params": share}).known_best == best


def test_with_the_whole_budget_the_best_is_the_best_of_all(made):
    assert made.known_best(1.0)[1].top1 == made.columns["top1"].max() / IMAGES


def test_a_budget_below_the_smallest_plan(made):
    with pytest.raises(BudgetError, match="lowest possible target"):
        made.known_best(0.01)


# --- files


def test_a_table_comes_back_as_it_was_saved(made, tmp_path):
    card = tabular.save("mine", made, tmp_path)
    back = tabular.load("mine", tmp_path)
    assert back.card == card
    for name, column in made.columns.items():
        assert back.columns[name].dtype == column.dtype
        assert (back.columns[name] == column).all()
    plan = tabular.plans(made.compressor)[4321]
    assert back(plan) == made(plan)


def test_a_file_that_was_changed_is_refused(made, tmp_path):
    tabular.save("mine", made, tmp_path)
    path = tmp_path / "mine.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"sha256 .*experiments\.tabulate table=mine"):
        tabular.load("mine", tmp_path)


def test_files_that_are_missing_or_of_something_else(made, tmp_path):
    (tmp_path / "fashion.json").write_text(json.dumps(files.seal({}, "fashion")))
    with pytest.raises(TableError, match=r"no table 'fashon' \(did you mean fashion\?\); there are"):
        tabular.load("fashon", tmp_path)
    with pytest.raises(TableError, match="not a table's card"):
        tabular.load("fashion", tmp_path)
    tabular.save("mine", made, tmp_path)
    rewriting.change(tmp_path / "mine.json", "mine", graph="other")
    with pytest.raises(TableError, match="made for the network other"):
        tabular.load("mine", tmp_path)
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(TableError, match="cannot be read"):
        tabular.load("mine", tmp_path)


def test_plans_that_are_not_in_it(made):
    dense = Plan.dense(made.compressor.graph)
    first = made.compressor.choose(1, 4)
    with pytest.raises(TableError, match="group 1 keeps"):
        made(dense.with_group(1, first[:3]))
    other = tuple(sorted({*range(16)} - set(first)))[:4]
    with pytest.raises(TableError, match="no level"):
        made(dense.with_group(1, other))
    with pytest.raises(TableError, match="no level"):
        made(dense.with_group(1, ()))
    for foreign in (Plan("another", dense.kept), Plan(dense.graph, dense.kept[1:])):
        with pytest.raises(TableError, match="is of another network than"):
            made(foreign)


def test_groups_without_eight_levels():
    graph = trace(network("chain"), (1, 8, 8))  # 8, 12, 16 channels
    with pytest.raises(TableError, match=r"\[12\] channels"):
        Levels(graph, [np.arange(len(group)) for group in graph.groups])


# --- making one


def test_columns_by_hand(made):
    levels = made.compressor
    evaluation = Evaluation(0.25, 0.5, 1.5, 0.75, 0.125, 8, "reward")
    found = [evaluation] * (8**5 - 1) + [Evaluation(1.0, 1.0, 0.5, 1.0, 0.25, 8, "reward")]
    columns = tabulate.columns(found, levels)
    assert [int(columns[name][0, 0, 0, 0, 0]) for name in COUNTED] == [2, 4, 6]
    assert [int(columns[name][-1, -1, -1, -1, -1]) for name in COUNTED] == [8, 8, 8]
    assert (columns["loss"][0, 0, 0, 0, 1], columns["kl"][7, 7, 7, 7, 7]) == (1.5, 0.25)


def test_plans_run_through_every_choice_the_last_group_fastest(made):
    everything = tabular.plans(made.compressor)
    assert len(set(everything)) == 8**5
    assert [len(kept) for kept in everything[1].kept] == [1, 2, 2, 4, 8]
    assert everything[8].kept[3] == made.compressor.choose(3, 8)


def test_held_out_images_of_digits_are_disjoint_and_of_the_sizes_asked():
    data = tabulate.data_of("digits", (200, 700, 200))
    sizes = [len(data[split]) for split in ("train", "calibration", "reward", "selection", "test")]
    assert sizes == [400, 200, 700, 200, 297]
    assert data.mean == tabulate.data_of("digits", (200, 200, 200)).mean


def test_the_costs_of_further_limits_are_no_objects_of_two_infos():
    check_env(TabularEnv("digits", target=0.5, limits={"params": 0.6}), skip_render_check=True)


def test_a_time_limit_of_exactly_the_decisions_cuts_nothing_off():
    env = gym.make("AMC/Tabular-Digits-v0", target=0.3, max_episode_steps=5)
    agent = Uniform(env.observation_space, env.action_space, seed=0)
    assert len(run_episode(env, agent)) == 5
