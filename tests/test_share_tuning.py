"""One tuning for all plans: its full-size networks are the cut ones, and it resumes as if never stopped."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from networks import NETS, PAIR, images, network, pixels, random_plan, ready

from amc_env import checkpoints
from amc_env.building import make_task
from amc_env.checkpoints import CheckpointError
from amc_env.compressors.surgery import cut
from amc_env.data.splits import load
from amc_env.execution import CPU
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair.statistics import Restated
from experiments.cli import config
from experiments.recording.record import RunRecord, without_clock
from experiments.training import fidelity, loop, share_tuning
from experiments.training.loop import train
from experiments.training.recipe import Recipe, RecipeError
from experiments.training.sandwich import Sandwich


def sandwich(model, graph, *plans):
    masks = np.stack([graph.mask(plan.kept) for plan in plans])
    return Sandwich(model, graph, masks[0], masks)


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("layer_norm", "group_norm")])
def test_a_masked_network_in_training_is_the_cut_one_in_training(name):
    model = ready(NETS[name]())
    graph = trace(model, PAIR)
    for seed in range(3):
        plan = random_plan(graph, seed)
        small, masked = cut(model, graph, plan).train(), copy.deepcopy(model).train()
        logits = sandwich(masked, graph, plan).logits(pixels(6), torch.from_numpy(graph.mask(plan.kept)))
        torch.testing.assert_close(logits, small(pixels(6)), rtol=2e-4, atol=2e-4)


def test_a_step_learns_from_labels_once_and_from_the_full_network_of_every_plan():
    model = ready(NETS["residual"]()).train()
    graph = trace(model.eval(), PAIR)
    model.train()
    narrow, wide = random_plan(graph, 1), Plan.dense(graph)
    lesson, labels = sandwich(model, graph, wide), torch.tensor([0, 1, 2, 0])
    full = model(pixels(4))
    labelled = torch.nn.functional.cross_entropy(full, labels)
    assert lesson(pixels(4), labels).item() == pytest.approx(labelled.item(), abs=1e-5)  # no plan differs
    assert sandwich(model, graph, narrow)(pixels(4), labels).item() > labelled.item()


def test_running_statistics_are_those_of_the_full_network_alone():
    model = ready(NETS["residual"]())
    graph = trace(model, PAIR)
    alone = copy.deepcopy(model).train()
    alone(pixels(4))
    model.train()
    sandwich(model, graph, random_plan(graph, 1))(pixels(4), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(model.norm.running_var, alone.norm.running_var)
    assert model.norm.momentum == alone.norm.momentum


def test_plans_are_drawn_by_the_generator_into_the_same_tensor():
    model = ready(NETS["residual"]())
    graph = trace(model, PAIR)
    lesson = sandwich(model, graph, *(random_plan(graph, seed) for seed in range(9)))
    where, drawn = lesson._drawn.data_ptr(), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            lesson.draw(generator)
            drawn.append(lesson._drawn.clone())
    assert lesson._drawn.data_ptr() == where
    assert all(torch.equal(a, b) for a, b in zip(drawn[:3], drawn[3:], strict=True))
    assert not torch.equal(drawn[0], drawn[1])


def test_a_norm_over_channels_is_refused():
    model = ready(NETS["layer_norm"]())
    graph = trace(model, PAIR)
    with pytest.raises(RecipeError, match="shared tuning is for networks with batch norm"):
        sandwich(model, graph, Plan.dense(graph))


def test_statistics_are_those_of_the_cut_network_on_its_calibration_images():
    model, data = network("residual"), images()
    graph = trace(model, data.shape)
    plan = random_plan(graph, 3)
    found = Restated(model, graph, data, images=40).network(plan)
    small = cut(model, graph, plan)
    (batch, _) = next(data.batches("calibration", 40))
    name, norm = next((n, m) for n, m in small.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    small(batch)
    mean = found.get_submodule(name).running_mean
    torch.testing.assert_close(mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not found.training
    again = Restated(model, graph, data, images=40).network(plan)
    torch.testing.assert_close(found(batch), again(batch))


def composed(command, folder, *overrides):
    given = ["model=digits_cnn", "data=digits", f"output={folder}", "device=cpu", *overrides]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose(command, [*given, "compressor.calibration_images=40", "compressor.points=2"])


SMALL = ("recipe.epochs=2", "recipe.batch_size=512", "targets=[0.4,0.6]")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    share_tuning.run(composed("share_tuning", folder, *SMALL), folder)
    return folder / "shared"


def test_it_learns_and_its_card_says_what_for(shared):
    card = checkpoints.read_card(shared)
    facts = card.recipe["shared"]
    assert (facts["resource"], facts["targets"]) == ("macs", [0.4, 0.6])
    assert card.plan is None
    assert card.accuracy["selection"] > 0.9
    rows = RunRecord.read(shared.parent).rows
    assert rows[1]["train/loss"] < rows[0]["train/loss"]


def test_a_tuning_that_is_cut_off_ends_as_one_that_is_not(shared, tmp_path, monkeypatch):
    save = loop._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    cfg = composed("share_tuning", tmp_path, *SMALL)
    monkeypatch.setattr(loop, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        share_tuning.run(cfg, tmp_path)
    monkeypatch.setattr(loop, "_save", save)
    share_tuning.run(cfg, tmp_path)
    whole, resumed = (RunRecord.read(folder).rows for folder in (shared.parent, tmp_path))
    assert without_clock(whole) == without_clock(resumed)
    assert checkpoints.read_card(shared).sha256 == checkpoints.read_card(tmp_path / "shared").sha256


def task(**settings):
    model, _ = checkpoints.load(checkpoints.shipped("digits_cnn-digits"))
    return make_task(model, load("digits"), device="cpu", calibration_images=40, points=2, **settings)


@pytest.mark.parametrize(
    ("settings", "resource", "target", "message"),
    [
        ({"order": "magnitude"}, "macs", 0.5, "was trained for another order of channels"),
        ({}, "macs", 0.3, "was trained for 0.4 to 0.6 of the macs, asked for 0.3 of the macs"),
        ({}, "params", 0.5, "asked for 0.5 of the params: .* with resource=params and targets around 0.5"),
    ],
)
def test_another_order_or_budget_is_refused(shared, settings, resource, target, message):
    with pytest.raises(CheckpointError, match=message):
        share_tuning.shared_networks(str(shared), task(**settings), resource, target)


def test_a_checkpoint_of_one_network_is_refused():
    stem = checkpoints.shipped("digits_cnn-digits")
    with pytest.raises(CheckpointError, match="was not trained for all plans: make one with"):
        share_tuning.shared_networks(str(stem), task(), "macs", 0.5)


@pytest.mark.parametrize("targets", [[0.5], [0.6, 0.4], [0.2, 0.3, 0.4]])
def test_a_range_has_two_ends(targets):
    with pytest.raises(RecipeError, match="the lowest and the highest budget"):
        share_tuning.range_of(targets)


def test_it_is_a_proxy_in_the_table_and_parts_are_of_other_plans(shared, tmp_path):
    short = ("reward_images=50", "recipe.epochs=1", "recipe.batch_size=512", "steps=0", "seeds=1", "plans=4")
    cfg = composed(
        "fidelity", tmp_path, *short, f"shared={shared}", "part=[1,2]", "protocol=flops_50",
    )  # fmt: skip
    fidelity.main(cfg, tmp_path)
    rows = RunRecord.read(tmp_path).rows
    assert [row["plan"] for row in rows] == [1, 3]
    assert all(row["proxies"]["shared tuning, statistics"]["top1"] > 0.5 for row in rows)


@pytest.mark.parametrize("part", [[2, 2], [0], [-1, 2], [0, 9]])
def test_a_part_that_there_is_not(part):
    with pytest.raises(config.ConfigError, match="part is a number from 0 and how many parts"):
        fidelity.part_of(part, 8)


def test_a_loss_that_is_no_number_names_its_step():
    model, data = network("residual"), images()
    graph = trace(model, data.shape)
    with pytest.raises(loop.DivergedError, match=r"in epoch \d, step \d+: lower lr from 1000000"):
        train(
            model, data, replace(Recipe(epochs=2, batch_size=16), lr=1e6), device=CPU,
            lesson=sandwich(model, graph, random_plan(graph, 0)),
        )  # fmt: skip
