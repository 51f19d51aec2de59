"""Policies on photographs: metrics without fine-tuning, one-shot baselines, and the table."""

import copy
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from networks import CLASSES, SHAPE, images, network
from PIL import Image
from torch import nn
from torch.nn import functional as F

from amc_env.building import make_task
from amc_env.evaluator import compared, logits
from amc_env.metrics import mean
from amc_env.plan import Plan
from experiments.analysis import stats, untuned
from experiments.cli import config
from experiments.delivery import picture
from experiments.recording.record import RunRecord
from experiments.searching import one_shot, photos

SMALL = ["device=cpu", "reward_images=30", "compressor.calibration_images=40", "compressor.points=2"]


def row(policy, seed, changed, missed=(), target=0.7):
    return {
        "policy": policy, "target": target, "seed": seed, "evaluations": 10, "search_seconds": 2.0,
        "macs_share": 0.69,
        "images": {"changed": changed, "missed": list(missed), "kl": [0.5, 0.1, 0.0, 0.0]},
    }  # fmt: skip


def record(*rows):
    return {"results": {"dense": {"missed": [3]}}, "rows": rows}


def test_agreement_divergence_and_drop_by_hand():
    (cell,) = untuned.cells([record(row("gp", 0, [0, 1], [0, 1])), record(row("gp", 1, [0], [0, 3]))])
    assert cell.estimate(untuned.agreement).value == 62.5
    assert cell.estimate(untuned.kl).value == pytest.approx(0.15)
    np.testing.assert_array_equal(cell.values(untuned.drop), [[100, 100, 0, -100], [100, 0, 0, 0]])
    assert cell.estimate(untuned.drop).value == 25


def test_the_policy_that_agrees_most_comes_first():
    found = record(row("uniform", 0, [0, 1]), row("gp", 0, [0]), row("gp", 0, [0], target=0.8))
    assert len(untuned.cells([found, found])[1].rows) == 1  # the same search in two records counts once
    lines = untuned.table([found]).splitlines()
    assert lines[0] == "**80 % of the MACs**"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| `")] == [
        "`gp`",
        "`gp`",
        "`uniform`",
    ]


def test_an_interval_over_runs_and_images():
    """One run of 100 coins has that of the coins; runs that differ widen it, images alike or not."""
    coins = np.repeat([[0.0, 100.0]], 50, axis=1)
    low, high = stats.crossed(coins)[1:]
    assert (low, high) == pytest.approx((40.2, 59.8), abs=1.5)
    apart = stats.crossed(np.array([[0.0] * 4, [1.0] * 4]))
    assert apart == (0.5, 0.0, 1.0)


def test_a_network_beside_the_dense_one_is_measured_as_its_plan_is():
    model, data = network("residual"), images()
    task = make_task(model, data, repair="moments", device="cpu", calibration_images=40, points=2, round_to=1)
    dense = logits(model, data, "test")
    assert mean(compared(model, dense, data, "test"), "test").agreement == 1
    plan = Plan.dense(task.graph).with_group(0, task.compressor.choose(0, 2))
    small, judge = task.network(plan), task.evaluator("test")
    found, right = (
        compared(small, dense, data, "test"),
        logits(small, data, "test").argmax(1) == data["test"].labels,
    )
    assert mean(found, "test").kl == pytest.approx(judge(plan).kl, rel=1e-3)
    assert mean(found, "test").agreement == judge(plan).agreement
    assert (torch.from_numpy(found["top1"]) == right).all()


def test_staged_repair_is_by_moments_while_searching_and_sequential_from_then_on():
    model, data = network("residual"), images()
    made = {
        repair: make_task(model, data, repair=repair, device="cpu", calibration_images=40, round_to=1)
        for repair in ("moments", "sequential", "staged")
    }
    plan = Plan.dense(made["staged"].graph).with_group(0, made["staged"].compressor.choose(0, 2))
    kls = {
        (repair, split): task.evaluator(split, 20)(plan).kl
        for repair, task in made.items()
        for split in ("reward", "selection")
    }
    assert kls["staged", "reward"] == kls["moments", "reward"] != kls["sequential", "reward"]
    assert kls["staged", "selection"] == kls["sequential", "selection"] != kls["moments", "selection"]
    for name, value in made["sequential"].network(plan).state_dict().items():
        assert torch.equal(value, made["staged"].network(plan).state_dict()[name])


class Blurred(nn.Module):
    """Between its convolutions a blur, whose kernel is fixed: no plan cuts it, and every plan pays for it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("blur", torch.ones(4, 1, 5, 5) / 25)

    def forward(self, x):
        x = F.conv2d(self.first(x), self.blur, padding=2, groups=4)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def test_one_shot_networks_pay_for_what_no_plan_cuts():
    model, data = Blurred(), images()
    pixels = math.prod(SHAPE[1:])
    assert one_shot.total(model, data) == pixels * 4 * (9 * SHAPE[0] + 25 + 6) + 6 * CLASSES
    assert one_shot.total(model, data) == make_task(model, data, repair="none").draft.prices("macs")([6])


@pytest.mark.slow
def test_torch_pruning_leaves_at_most_the_target_and_moves_no_weight():
    pytest.importorskip("torch_pruning")
    model, data = network("residual"), images()
    before = copy.deepcopy(model.state_dict())
    whole = one_shot.total(model, data)
    cut = one_shot.torch_pruning(model, data, 0.6)
    assert 0.3 * whole < one_shot.total(cut, data) <= 0.6 * whole
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(one_shot.OneShotError, match="ask for more"):
        one_shot.torch_pruning(model, data, 1e-5)


def test_re_estimated_statistics_are_those_of_the_calibration_images():
    model, data = network("residual"), images()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    conv = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    one_shot.re_estimate(model, data, one_shot.BATCH)
    expected = conv(next(data.batches("calibration", one_shot.BATCH))[0]).mean((0, 2, 3))
    torch.testing.assert_close(first.running_mean, expected)
    assert not any(module.training for module in model.modules())


@pytest.mark.slow
def test_searches_and_shots_are_measured_without_a_recipe(tmp_path, capsys):
    pytest.importorskip("torch_pruning")
    words = ["model=digits_cnn", "data=digits", f"output={tmp_path}", "targets=[0.5]", "seeds=2", *SMALL]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("photos", [*words, "episodes=3", "confirm=2"])
        cfg.contenders = {name: cfg.contenders[name] for name in ("uniform", "additive")}
        photos.main(cfg, tmp_path)
    found = RunRecord.read(tmp_path)
    assert [(row["policy"], row["seed"]) for row in found.rows] == [
        ("uniform", 0), ("additive", 0), ("torch_pruning", 0), ("additive", 1),
    ]  # fmt: skip
    for each in found.rows:
        assert each["agreement"]["test"] == pytest.approx(1 - len(each["images"]["changed"]) / 297)
        assert each["macs_share"] <= 0.5
    assert "| `torch_pruning` | 1 | 0 |" in capsys.readouterr().out


def ink_of(path):
    with Image.open(path) as drawn:
        return np.asarray(drawn.convert("L")) < 255


def bands(ink):
    """How many runs of columns have ink in them."""
    return int((np.diff(ink.any(0).astype(int), prepend=0) == 1).sum())


def test_a_picture_of_the_photographs_of_which_not_all_say_the_same(tmp_path):
    data = images()
    dense = data["test"].labels
    assert picture.draw(data, {"dense": dense, "found": dense.clone()}, tmp_path / "none.png") is None
    other = dense.clone()
    other[[1, 5]] = (dense[[1, 5]] + 1) % 4
    path = picture.draw(data, {"dense": dense, "uniform": dense, "found": other}, tmp_path / "some.png")
    assert bands(ink_of(path)[:60]) == 2  # photographs, above the names
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("last", ["found", "a_searcher_of_a_long_name"])
def test_no_name_is_cut_off_the_picture(last, tmp_path):
    data = images()
    dense = data["test"].labels
    said = {"dense": dense, "uniform": (dense + 1) % 4, last: (dense + 2) % 4}
    ink = ink_of(picture.draw(data, said, tmp_path / "eight.png"))
    assert not ink[[0, -1]].any()
    assert not ink[:, [0, -1]].any()
    assert bands(ink.T) == 1 + len(said)  # the photographs, and a line for each network
