"""Latency tables: prices against hand-computed values, falling costs, and tables that do not fit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amc_env import latency, zoo
from amc_env.building import make_env
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.conditions import Conditions, LatencyError
from amc_env.data.splits import load
from amc_env.graph.trace import trace
from amc_env.latency import Fit, LatencyTable
from amc_env.latency_prices import LatencyPrices, LayerTimes

FIT = Fit(1.0, 1.0, 0.0, ())
COMMITTED = Path(__file__).parents[1] / "experiments/results/latency"


def prices(layers, counts=((2, 4), (4, 8)), *, rest=0, factor=1.0):
    return LatencyPrices(counts, layers, rest, 1, factor)


def test_prices_by_hand():
    """A layer of both groups, one of the second, one of none, and what lies outside of layers."""
    both = LayerTimes("a", (0, 1), [[10, 20], [30, 100]])
    one = LayerTimes("b", (1,), [5, 7])
    none = LayerTimes("c", (), 3)
    found = prices([both, one, none], rest=-1, factor=2.0)
    assert found.pairs == ((0, 1),)
    assert int(found([2, 4])) == 2 * (10 + 5 + 3) - 1
    assert int(found([4, 8])) == 2 * (100 + 7 + 3) - 1
    assert int(found([3, 4])) == 2 * (20 + 5 + 3) - 1  # halfway between 10 and 30
    assert found.column([2, 4], 1, np.array([4, 6, 8])).tolist() == [
        35,
        2 * (15 + 6 + 3) - 1,
        2 * (20 + 7 + 3) - 1,
    ]


def test_counts_are_rounded_up_to_what_the_processor_handles_at_once():
    found = LatencyPrices([(8, 24, 64)], [LayerTimes("a", (0,), [10, 20, 40])], 0, 16, 1.0)
    at = {count: int(found([count])) for count in (8, 9, 16, 17, 24, 25, 32, 64)}
    assert at == {8: 10, 9: 15, 16: 15, 17: 20, 24: 20, 25: 24, 32: 24, 64: 40}


@pytest.fixture
def model():
    return zoo.build("digits_cnn", classes=10, in_channels=1).eval()


@pytest.fixture
def table(model):
    """Made up: a group's time rises with its channels, but falls at the last step."""
    graph = trace(model, (1, 8, 8))
    counts = [sorted({1, max(1, len(group) // 2), len(group) - 1, len(group)}) for group in graph.groups]
    layers = [
        LayerTimes(f"g{group}", (group,), [100 * count for count in each[:-1]] + [100 * each[-2] - 50])
        for group, each in enumerate(counts)
    ]
    here = Conditions.here(graph, runtime="torch", threads=1, batch=1)
    return LatencyTable("digits_cnn", here, 1, counts, layers, 1000, FIT, 1.0, "today")


def test_a_table_comes_back_as_it_was_saved(table, tmp_path):
    latency.save(table, tmp_path / "table.json")
    again = latency.read(tmp_path / "table.json")
    assert again.conditions == table.conditions
    assert [len(each) for each in again.counts] == [len(each) for each in table.counts]
    assert int(again.prices()([each[-1] for each in table.counts])) == int(
        table.prices()([each[-1] for each in table.counts])
    )


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.json")), ids=lambda path: path.stem)
def test_committed_tables_are_read(path):
    assert latency.read(path).layers


def test_damage_is_found_and_the_way_out_is_a_command_for_a_shell(table, tmp_path):
    path = tmp_path / "my table.json"
    latency.save(table, path)
    content = json.loads(path.read_text())
    content["rest_ns"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(
        LatencyError, match=r"not what its digest says; measure it with .* 'table=\S+/my table\.json' "
    ):
        latency.read(path)
    path.write_text("{}")
    with pytest.raises(LatencyError, match=r"has no digest.*seal '\S+/my table\.json'"):
        latency.read(path)
    with pytest.raises(LatencyError, match="cannot be read"):
        latency.read(tmp_path / "none.json")


def test_each_difference_is_named(table, model, tmp_path):
    path = tmp_path / "table.json"
    latency.save(
        replace(table, conditions=replace(table.conditions, version="0.1", features=("avx9",))), path
    )
    graph = trace(model, (1, 8, 8))
    with pytest.raises(LatencyError) as error:
        latency.table_for(graph, path)
    assert "features: the table has avx9" in str(error.value)
    assert "version: the table has 0.1" in str(error.value)
    assert "threads" not in str(error.value)
    assert latency.table_for(graph, path, force=True).name == "digits_cnn"


def test_a_budget_of_time_holds_for_every_plan_although_a_step_falls(model, table, tmp_path, cache):
    latency.save(table, tmp_path / "table.json")
    env = make_env(
        model, load("digits"), target=0.6, resource="latency", latency=str(tmp_path / "table.json"),
        repair="none", order="magnitude", reward_images=10, round_to=1, scale="absolute",
    )  # fmt: skip
    cost = table.prices()
    dense = int(cost([len(group) for group in env.graph.groups]))
    assert env.budget.dense == dense
    for seed in range(20):
        env.reset()
        for action in np.random.default_rng(seed).random(len(env.graph.groups)):
            env.step([action])
        assert int(cost(env.counts)) <= 0.6 * dense


def test_without_a_table_there_is_no_time(model):
    graph = trace(model, (1, 8, 8))
    channels = Channels(graph, magnitude_orders(model, graph))
    with pytest.raises(LatencyError, match="needs a table: give protocol"):
        channels.prices("latency")
