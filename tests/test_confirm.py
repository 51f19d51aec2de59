"""The best candidates are measured again, and fine-tuned in rounds if asked for."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from torch import nn

from amc_env import checkpoints
from amc_env.building import make_task
from amc_env.data.splits import load
from experiments.cli.config import CONF, ConfigError
from experiments.recording import plans
from experiments.recording.record import RunRecord
from experiments.searching import confirm
from experiments.searching.search import search
from experiments.training.recipe import Recipe

QUICK = Recipe(epochs=1, batch_size=32, lr=0.01, schedule="cosine")


def row(episode, reward, *counts):
    return {"episode": episode, "reward": reward, "counts": list(counts)}


def test_the_difference_of_plans_by_hand():
    assert plans.difference([8, 16], [8, 16]) == 0
    assert plans.difference([8, 16], [16, 8]) == 16 / 32
    assert plans.difference([1], [100]) == 0.99


def test_candidates_that_are_alike_are_taken_once():
    rows = [row(0, 1.0, 100, 50), row(1, 0.9, 101, 50), row(2, 0.8, 60, 90), row(3, 0.7, 60, 91)]
    assert [found["episode"] for found in plans.candidates(rows, 3, apart=0.02)] == [0, 2]
    assert [found["episode"] for found in plans.candidates(rows, 3)] == [0, 1, 2]
    assert [found["episode"] for found in plans.candidates(rows, 1, apart=0.02)] == [0]


@pytest.fixture(scope="module")
def task():
    model, _ = checkpoints.load(checkpoints.shipped("digits_cnn-digits"))
    return make_task(model, load("digits"), order="magnitude", repair="none")


def keeping(task, counts):
    return plans.plan_of(task, counts)


def test_the_best_third_goes_on_and_the_last_round_decides(task, monkeypatch):
    """Seven plans, three, one: of these the second round turns the order of the first."""
    whole = [len(group) for group in task.graph.groups]
    found = [keeping(task, [kept, *whole[1:]]) for kept in range(1, 8)]
    first = {0: 0.1, 1: 0.7, 2: 0.3, 3: 0.6, 4: 0.2, 5: 0.5, 6: 0.4}
    second = {1: 0.71, 3: 0.9, 5: 0.8}
    answers = iter([*first.values(), *(second[at] for at in (1, 3, 5))])
    seen = []
    monkeypatch.setattr(
        confirm,
        "train",
        lambda network, data, recipe, device: seen.append((len(data["train"]), recipe.epochs)),
    )
    monkeypatch.setattr(confirm, "accuracy", lambda network, data, split: next(answers))
    best, history = confirm.halved(task, found, QUICK, [0.125, 1.5])
    images = len(task.data["train"])
    assert best == 3
    assert [len(rounds) for rounds in history] == [1, 2, 1, 2, 1, 2, 1]
    assert history[3] == [{"epochs": 0.125, "selection": 0.6}, {"epochs": 1.5, "selection": 0.9}]
    assert seen == [(round(images / 8), 1)] * 7 + [(round(images * 0.75), 2)] * 3


def test_fine_tuning_changes_the_networks_it_measures(task):
    whole = [len(group) for group in task.graph.groups]
    found = [keeping(task, [2, 2, *whole[2:]]), keeping(task, [2, 8, *whole[2:]])]
    before = {type(module) for module in task.model.modules()}
    best, history = confirm.halved(task, found, QUICK, [2.0])
    assert nn.Conv2d in before
    assert best == max((0, 1), key=lambda at: history[at][0]["selection"])
    untuned = task.evaluator("selection")(found[best]).top1
    assert history[best][0]["selection"] > untuned


def composed(folder: Path, *words: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["experiment=digits", f"output={folder}", "tracking=none", *words])


def test_the_main_job_records_the_rounds(tmp_path, cache):
    small = ("agent=random", "episodes=6", "confirm=3", "deliver=false", "confirm_epochs=[0.25,0.5]")
    search(composed(tmp_path / "run", *small), tmp_path / "run")
    content = RunRecord.read(tmp_path / "run").content
    tried = content["results"]["candidates"]
    assert sorted(len(one["tuned"]) for one in tried) == [1, 1, 2]
    (last,) = [one for one in tried if len(one["tuned"]) == 2]
    assert content["best"]["episode"] == last["episode"]


@pytest.mark.parametrize("wrong", ["[0]", "[-1]", "[0.5,1000]"])
def test_rounds_that_cannot_be(wrong, tmp_path):
    with pytest.raises(ConfigError, match=r"confirm_epochs is .*, it is at (least 0.001|most 100)"):
        search(composed(tmp_path / "run", f"confirm_epochs={wrong}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
