"""The jobs that measure, search and fine-tune: small, on digits."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from rewriting import cut_short
from torch import nn

from agents import critic
from agents.pretrained import SHIPPED
from amc_env import checkpoints
from amc_env.budget import Budget
from amc_env.building import make_task
from amc_env.data.splits import load
from experiments.analysis.fidelity import METRICS
from experiments.analysis.repairs import COMPARED
from experiments.cli import config
from experiments.cli.trained import trained
from experiments.recording.record import RecordError, RunRecord
from experiments.searching import contest, fidelity, policies, stages
from experiments.searching.contest import note_critics
from experiments.training import finetune
from experiments.training.plan_sets import PlanSetError, plan_set

SHORT = ["device=cpu", "reward_images=50", "recipe.epochs=1", "recipe.batch_size=256"]
CALIBRATION = ["compressor.calibration_images=40", "compressor.points=2"]


def composed(command, folder, *overrides):
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose(
            command, ["model=digits_cnn", "data=digits", f"output={folder}", *SHORT, *CALIBRATION, *overrides]
        )


@pytest.fixture
def tuning_seeds(monkeypatch):
    """The seeds of all fine-tunings, in their order."""
    seeds, train = [], finetune.train

    def spied(model, data, recipe, **settings):
        seeds.append(recipe.seed)
        return train(model, data, recipe, **settings)

    monkeypatch.setattr(finetune, "train", spied)
    return seeds


@pytest.fixture(scope="module")
def compressor():
    model, _ = checkpoints.load(checkpoints.shipped("digits_cnn-digits"))
    return make_task(model, load("digits"), device="cpu").compressor


@pytest.fixture(scope="module")
def budget(compressor):
    return Budget(compressor, {"macs": 0.5})


def test_plans_are_different_within_the_budget_and_the_same_for_a_seed(budget):
    plans = plan_set(budget, 12, seed=1)
    assert [plan.kind for plan in plans[:3]] == ["uniform", "shallow", "deep"]
    assert len({plan.counts for plan in plans}) == 12
    assert all(budget.within(plan.counts) for plan in plans)
    assert plans == plan_set(budget, 12, seed=1)
    assert plans != plan_set(budget, 12, seed=2)


def test_the_uniform_plan_keeps_the_same_share_of_all(budget):
    (plan,) = plan_set(budget, 1, seed=0)
    keeps = np.array(plan.counts) / [choices[-1] for choices in budget.choices]
    steps = max(1 / choices[-1] for choices in budget.choices) * 4
    assert np.ptp(keeps) <= steps


def test_more_plans_than_there_are_is_an_error(compressor, budget):
    smallest = Budget(compressor, {"macs": 1.0}).spent(budget.cheapest)
    alone = Budget(compressor, {"macs": np.ceil(1e4 * smallest) / 1e4})
    with pytest.raises(PlanSetError, match="ask for fewer"):
        plan_set(alone, 50, seed=0)


def test_fidelity_measures_every_proxy_and_goes_on_where_it_was_stopped(tmp_path, capsys, tuning_seeds):
    cfg = composed("fidelity", tmp_path, "plans=3", "seeds=2", "steps=2", "protocol=flops_50")
    fidelity.main(cfg, tmp_path)
    rows = RunRecord.read(tmp_path).rows
    names = [f"{order}, {repair}" for order in fidelity.ORDERS for repair in COMPARED]
    assert [row["plan"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert set(row["proxies"]) == {*names, "tuned 2 steps"} == set(row["seconds"])
        assert all(set(proxy) == set(METRICS) for proxy in row["proxies"].values())
        assert len(row["tuned"]) == 2
        assert row["macs_share"] <= 0.5
    assert "Spearman" in capsys.readouterr().out
    assert tuning_seeds == 3 * [0, 0, 1]  # a plan's short tuning, and one of each seed
    cut_short(tmp_path, 2)
    fidelity.main(cfg, tmp_path)
    again = RunRecord.read(tmp_path).rows
    assert [row["plan"] for row in again] == [0, 1, 2]
    assert again[2]["proxies"] == rows[2]["proxies"]
    assert again[2]["tuned"] == rows[2]["tuned"]
    other_weights(tmp_path)
    with pytest.raises(RecordError, match="was begun with other weights"):
        fidelity.main(cfg, tmp_path)


def other_weights(folder):
    """Makes a record one of a network that was trained anew since."""
    with RunRecord.read(folder) as record:
        record.update(results={"weights": "0" * 64})


def test_a_process_measures_its_part_of_the_plans(tmp_path):
    cfg = composed("fidelity", tmp_path, "plans=4", "seeds=0", "steps=0", "part=[1,2]", "protocol=flops_50")
    fidelity.main(cfg, tmp_path)
    assert [(row["plan"], row["tuned"]) for row in RunRecord.read(tmp_path).rows] == [(1, []), (3, [])]


def test_a_short_tuning_is_named_after_the_steps_that_there_are(tmp_path):
    cfg = composed("fidelity", tmp_path, "plans=3", "steps=50", "protocol=flops_50")
    assert fidelity.prepared(cfg, trained(cfg)).steps == 4  # an epoch in batches of 256


@pytest.mark.parametrize("part", [[2, 2], [0], [-1, 2], [0, 9]])
def test_a_part_that_there_is_not(part):
    with pytest.raises(config.ConfigError, match="part is a number from 0 and how many parts"):
        fidelity.part_of(part, 8)


def test_policies_are_confirmed_and_tuned_with_seeds_of_their_own(tmp_path, capsys, tuning_seeds):
    cfg = composed("policies", tmp_path, "targets=[0.5]", "seeds=2")
    cfg.contenders = {"uniform": ["agent=uniform", "env.scale=absolute"], "random": ["agent=random"]}
    cfg.episodes, cfg.early, cfg.confirm = 3, 2, 2
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        policies.main(cfg, tmp_path)
    rows = RunRecord.read(tmp_path).rows
    names = ("uniform", "random")
    assert [(row["policy"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (0, 1) for name in names
    ]
    assert tuning_seeds == sorted(tuning_seeds)  # seed by seed, and the best of the first two perhaps apart
    assert set(tuning_seeds) == {0, 1}
    assert rows[0]["counts"] == rows[2]["counts"]
    assert all(row["macs_share"] <= 0.5 for row in rows)
    assert rows[0]["evaluations"] == len(rows[0]["curve"]) == rows[0]["distinct"] == 1
    assert "early" not in rows[0]
    assert RunRecord.read(tmp_path).content["results"]["dense"].keys() == {"selection", "test"}
    for row in rows[1::2]:
        assert (row["evaluations"], row["early"]["evaluations"]) == (3, 2)
        assert row["early"]["episode"] < 2
        assert [at for at, _ in row["curve"]] == [1, 2, 3]
        assert row["curve_seconds"] == sorted(row["curve_seconds"])
    assert "above `uniform`" in capsys.readouterr().out
    assert all(row["bytes"] > 0 and row["ms"] > 0 for row in rows)
    results = RunRecord.read(tmp_path).content["results"]
    assert results["dense_costs"]["bytes"] > rows[0]["bytes"]
    other_weights(tmp_path)
    with (
        initialize_config_dir(str(config.CONF), version_base="1.3"),
        pytest.raises(RecordError, match="was begun with other weights"),
    ):
        policies.main(cfg, tmp_path)


def test_agents_that_read_errors_are_refused_before_any_run(tmp_path):
    cfg = composed("policies", tmp_path, "targets=[0.5]", "seeds=1", "compressor=low_rank")
    cfg.contenders = {"random": ["agent=random"], "least_error": ["agent=least_error"]}
    with (
        initialize_config_dir(str(config.CONF), version_base="1.3"),
        pytest.raises(config.ConfigError, match=r"reads the errors of layers, .* leave it out"),
    ):
        policies.main(cfg, tmp_path)
    assert not RunRecord.read(tmp_path).rows


def test_policies_hold_the_critics_that_they_were_begun_with(tmp_path):
    cfg = composed("policies", tmp_path, "targets=[0.5]", "seeds=1")
    cfg.contenders = {"pretrained": ["agent=pretrained"]}
    cfg.episodes, cfg.confirm = 1, 1
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        policies.main(cfg, tmp_path)
    record = RunRecord.read(tmp_path)
    assert record.content["results"]["critics"]["pretrained"]["sha256"] == critic.read(SHIPPED).digest
    record.content["results"]["critics"]["pretrained"]["sha256"] = "others"
    with pytest.raises(RecordError, match="was begun with other critics"):
        note_critics(record, {"pretrained": {"agent": {"_target_": "agents.pretrained.Pretrained"}}})


def test_stages_search_from_where_the_last_one_ended(tmp_path):
    cfg = composed("policies", tmp_path, "targets=[0.3]", "seeds=1", "stages=[0.6,0.3]", "recipe.epochs=2")
    cfg.contenders = {"random": ["agent=random"]}
    cfg.episodes, cfg.confirm, cfg.recipe.distill = 4, 2, 0.5
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        policies.main(cfg, tmp_path)
    (row,) = RunRecord.read(tmp_path).rows
    (first,) = row["stages"]
    assert (first["target"], first["evaluations"], row["evaluations"]) == (0.6, 2, 4)  # of both stages
    assert all(few <= many for few, many in zip(row["counts"], first["counts"], strict=True))
    assert 0.1 < row["macs_share"] <= 0.3 < first["macs_share"] <= 0.6
    assert [at for at, _ in row["curve"]] == [3, 4]  # the last stage's, counted from the first's
    assert len(row["curve_seconds"]) == 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_networks_are_timed_in_one_layout_whatever_they_were_trained_in(layout):
    """Fine-tuned networks are channels last, the dense one as its file has it."""
    seen = set()
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)).to(memory_format=layout)
    network[1].register_forward_pre_hook(
        lambda module, given: seen.add(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    stages.costs(network, (3, 8, 8))
    assert seen == {True}


def test_a_module_that_stands_under_two_names_is_stored_once():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    once, twice = (stages.costs(nn.Sequential(*layers), (3, 8, 8)) for layers in ([layer], [layer, layer]))
    assert once["bytes"] == twice["bytes"]


def test_a_curve_counts_what_earlier_stages_spent():
    trials = [{"reward": reward, "seconds": 1.0} for reward in (-0.5, -0.7, -0.4)]
    assert contest.curve(trials) == {
        "curve": [[1, -0.5], [2, -0.5], [3, -0.4]], "curve_seconds": [1.0, 2.0, 3.0]
    }  # fmt: skip
    later = contest.curve(trials, [{"reward": -0.1, "seconds": 4.0}] * 2)
    assert later == {"curve": [[3, -0.5], [4, -0.5], [5, -0.4]], "curve_seconds": [9.0, 10.0, 11.0]}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["stages=[0.5,0.6]"], "must fall towards the target"),
        (["stages=[0.6]", "episodes=3"], "episodes is 3, .* give a multiple of 2"),
        (["stages=[0.6]", "episodes=4", "recipe.epochs=3"], "recipe.epochs is 3, .* cannot share evenly"),
        (["stages=[0.6]", "recipe.epochs=2", "compressor=low_rank"], "give method=channels, not low_rank"),
    ],
)
def test_stages_that_cannot_be(tmp_path, overrides, told):
    cfg = composed("policies", tmp_path, "targets=[0.3]", *overrides)
    with pytest.raises(config.ConfigError, match=told):
        stages.check(cfg)


def test_a_share_of_what_is_left_is_never_more_than_asked():
    assert stages.relative(0.3, 1.0) == 0.3
    assert stages.relative(0.5, 0.25) == 1.0
    for left in range(301, 1001, 7):
        dense = left * 1000
        most = int(np.floor(stages.relative(0.3, left / 1000) * dense))
        assert 0.3 * 1_000_000 - 2 <= most <= 0.3 * 1_000_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"targets": [0.5, 0.01]}, "below the smallest network"),
        ({"contenders": {"random": ["agent=random"], "mine": ["agent=pretrained", "agent.critic=no"]}}, "no"),
    ],
)
def test_a_search_that_cannot_be_is_told_before_the_first_one(tmp_path, wrong, message):
    cfg = composed("policies", tmp_path, "targets=[0.5]", "seeds=1", "episodes=2")
    cfg.contenders = {"random": ["agent=random"]}
    for key, value in wrong.items():
        cfg[key] = value
    with (
        initialize_config_dir(str(config.CONF), version_base="1.3"),
        pytest.raises(Exception, match=message),
    ):
        policies.main(cfg, tmp_path)
    assert RunRecord.read(tmp_path).rows == []
