"""The dense network of a command: which weights, options and splits it has, and what is refused in time."""

import dataclasses
import errno
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card, CheckpointError
from amc_env.data.splits import load
from amc_env.evaluator import accuracy
from experiments.cli.config import ConfigError, plain
from experiments.cli.exits import message_of
from experiments.cli.identity import check_identity, check_splits, images_of
from experiments.cli.problem import foresee, searched
from experiments.cli.trained import Trained, trained
from experiments.delivery.deliver import _bytes
from experiments.recording.record import RecordError, RunRecord

HERE = "tests.test_trained"
OWN = ("experiment=digits", "model=import", f"+model.options.target={HERE}:build")


class Own(nn.Module):
    def __init__(self, classes: int, in_channels: int, act: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, 8, 3), nn.Linear(8, classes)
        self.act = {"relu": nn.ReLU(), "tanh": nn.Tanh()}[act]
        self.alias = self.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def build(classes: int, in_channels: int, act: str = "relu") -> nn.Module:
    torch.manual_seed(0)
    return Own(classes, in_channels, act)


def masked(classes: int, in_channels: int) -> nn.Module:
    network = build(classes, in_channels)
    network.register_buffer("mask", torch.tensor([-math.inf, 0.0]))
    return network


def card_of(**facts: Any) -> Card:
    own = {"architecture": "import", "options": {"target": f"{HERE}:build", "act": "tanh"}}
    known: dict[str, Any] = {"classes": 10, "in_channels": 1, "data": "digits", "shape": (1, 8, 8)}
    return Card(**(known | {"seed": 0, "commit": "0"} | own | facts))


def test_a_network_of_ones_own_is_built_with_the_options_on_its_card(composed, tmp_path: Path) -> None:
    weights.save(tmp_path / "net", build(10, 1, act="tanh"), card_of())
    stem = f"model.checkpoint={tmp_path / 'net'}"
    found = trained(composed("config", *OWN, stem))
    assert isinstance(found.model.act, nn.Tanh)
    assert found.card.options["act"] == "tanh"
    with pytest.raises(
        CheckpointError, match=r"model\.options\.act is relu, but the network of net has tanh"
    ):
        trained(composed("config", *OWN, stem, "+model.options.act=relu"))


def test_weights_of_a_network_of_the_zoo_in_ones_own_are_carded_as_ones_own(composed, tmp_path: Path) -> None:
    weights.save(tmp_path / "net", build(10, 1), card_of(architecture="digits_cnn", options={}))
    found = trained(
        composed("config", *OWN, f"model.checkpoint={tmp_path / 'net'}", "+model.options.act=tanh")
    )
    assert (found.card.architecture, found.card.options["act"]) == ("import", "tanh")


def test_splits_in_which_training_images_measure_are_refused(composed, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trained on the splits of data\.seed=0"):
        trained(composed("config", "experiment=digits", "data.seed=1"))
    weights.save(tmp_path / "net", build(10, 1, act="tanh"), card_of(data_seed=1))
    stem = f"model.checkpoint={tmp_path / 'net'}"
    assert trained(composed("config", *OWN, stem, "data.seed=1")).card.data_seed == 1
    with pytest.raises(CheckpointError, match=r"Give that seed, or train"):
        trained(composed("config", *OWN, stem))


def test_a_compressed_checkpoint_is_not_searched(composed, tmp_path: Path) -> None:
    model, card = weights.load(weights.shipped("digits_cnn-digits"))
    weights.save(tmp_path / "net", model, dataclasses.replace(card, plan={"graph": "0", "kept": []}))
    with pytest.raises(CheckpointError, match="compressed already, and a checkpoint holds one plan"):
        foresee(composed("config", "experiment=digits", f"model.checkpoint={tmp_path / 'net'}"))


def test_numbers_that_no_checkpoint_may_hold_are_found_at_the_start(composed) -> None:
    with pytest.raises(CheckpointError, match=r"1 of 2 numbers of mask are .*persistent=False"):
        trained(
            composed("config", "experiment=digits", "model=import", f"+model.options.target={HERE}:masked")
        )


def test_a_search_goes_on_with_the_weights_that_it_was_begun_with(composed, tmp_path: Path) -> None:
    original = trained(composed("config", "experiment=digits"))
    with RunRecord.create(tmp_path, {}, seeds={}) as record:
        check_identity(record, original.model, original.data)
        record.update(results=check_identity(record, original.model, original.data))
        check_identity(record, original.model, original.data)
        other = Trained(build(10, 1), original.card, original.data)
        with pytest.raises(RecordError, match="begun with other weights"):
            check_identity(record, other.model, other.data)


def test_a_run_goes_on_with_the_images_that_it_was_begun_with(composed, tmp_path: Path) -> None:
    original = trained(composed("config", "experiment=digits"))
    with RunRecord.create(tmp_path, {}, seeds={}) as record:
        record.update(results=check_identity(record, original.model, original.data))
        other = load(original.data.name, seed=1)
        with pytest.raises(RecordError, match="begun with other images"):
            check_identity(record, original.model, other)


def test_a_run_goes_on_with_the_labels_that_it_was_begun_with(composed, tmp_path: Path) -> None:
    original = trained(composed("config", "experiment=digits"))
    with RunRecord.create(tmp_path, {}, seeds={}) as record:
        record.update(results=check_identity(record, original.model, original.data))
        splits = original.data.splits
        moved = splits | {"reward": dataclasses.replace(splits["reward"], labels=splits["reward"].labels * 0)}
        for changed in ({"splits": moved}, {"mean": (0.25,)}):
            data = dataclasses.replace(original.data, **changed)
            with pytest.raises(RecordError, match="begun with other labels, or another mean and std"):
                check_identity(record, original.model, data)
        earlier = record.content["results"]
        del earlier["labels"]  # not in the first records
        check_identity(record, original.model, data)


def test_images_that_a_network_was_trained_on_are_no_reward_images(composed) -> None:
    """By their content: a seed says nothing of a user's own function, or of other files in a folder."""
    original = trained(composed("config", "experiment=digits"))
    card = original.card
    assert card.images == images_of(original.data)
    check_splits(card, 0, original.data)
    with pytest.raises(CheckpointError, match=r"trained on the splits of data\.seed=0"):
        check_splits(card, 1, original.data)
    other = load(original.data.name, seed=1)
    with pytest.raises(
        CheckpointError, match="with other images of digits than there are now, or in another"
    ):
        check_splits(card, 0, other)
    check_splits(dataclasses.replace(card, data="mine"), 0, other)
    check_splits(dataclasses.replace(card, images=""), 0, other)  # of a first card


def test_another_copy_of_the_data_of_a_network_that_ships_is_told(composed, capsys) -> None:
    original = trained(composed("config", "experiment=digits"))
    card = dataclasses.replace(original.card, images="", note="JPEG copies")
    for copy, told in (("JPEG copies", False), ("", False), ("official files", True)):
        check_splits(card, 0, dataclasses.replace(original.data, copy=copy))
        assert ("trained on JPEG copies of digits, and these are official" in capsys.readouterr().out) is told
    official = dataclasses.replace(original.data, copy="official files")
    for path in weights.shipped("plain20-fashion_mnist"), weights.shipped("plain20-cifar10"):
        shipped = dataclasses.replace(weights.load(path)[1], data="digits")
        check_splits(shipped, 0, official)
        assert bool(capsys.readouterr().out) is ("cifar10" in str(path))  # the other note is a command


def test_what_a_search_read_is_looked_for_where_it_was_started(composed, tmp_path: Path) -> None:
    settings = plain(composed("config", "experiment=digits", "model.checkpoint=nets/mine"))
    RunRecord.create(tmp_path, settings, seeds={})
    with pytest.raises(ConfigError, match=r"model\.checkpoint=nets/mine, which is not there: start this in"):
        searched(tmp_path, None)


def test_a_checkpoint_that_is_named_by_its_file_keeps_its_card(composed, tmp_path: Path) -> None:
    weights.save(tmp_path / "net-1.5", build(10, 1, act="tanh"), card_of(data_seed=1))
    file = f"model.checkpoint={tmp_path / 'net-1.5.safetensors'}"
    assert trained(composed("config", *OWN, file, "data.seed=1")).card.options["act"] == "tanh"
    with pytest.raises(CheckpointError, match=r"trained on the splits of data\.seed=1"):
        trained(composed("config", *OWN, file))


def test_a_network_filled_from_a_checkpoint_of_other_data_is_carded_by_ours(composed, tmp_path: Path) -> None:
    card = card_of(data="fashion_mnist", shape=(1, 28, 28), data_seed=3)
    weights.save(tmp_path / "net", build(10, 1), card)
    found = trained(composed("config", *OWN, f"model.checkpoint={tmp_path / 'net'}")).card
    assert (found.data, found.shape, found.data_seed) == ("digits", (1, 8, 8), 0)


def test_what_torchvision_sets_with_weights_is_on_the_card(composed, monkeypatch) -> None:
    model = build(10, 1)
    model.transform_input = True
    monkeypatch.setattr(zoo, "build", lambda name, **options: model)
    googlenet = ("model=torchvision", "model.name=torchvision/googlenet", "model.options.weights=DEFAULT")
    cfg = composed("config", "experiment=digits", *googlenet)
    assert trained(cfg).card.options["transform_input"] is True


def test_the_size_of_a_network_with_two_names_for_a_module() -> None:
    assert _bytes(build(10, 1)) > 4 * sum(value.numel() for value in build(10, 1).state_dict().values())


def test_photographs_without_labels_are_labelled_by_any_network(composed, tmp_path: Path, capsys) -> None:
    model = zoo.build("plain20", classes=1000, in_channels=3, width=0.25).eval()
    facts = {"architecture": "plain20", "classes": 1000, "in_channels": 3, "shape": (3, 8, 8), "data": "mine"}
    weights.save(tmp_path / "net", model, card_of(**facts, options={"width": 0.25}))
    for number in range(30):
        Image.fromarray(np.full((8, 8, 3), 8 * number, np.uint8)).save(tmp_path / f"{number}.png")
    words = [
        "model=plain20",
        "model.options.width=0.25",
        f"model.checkpoint={tmp_path / 'net'}",
        "data=photos",
    ]
    words += [f"data.root={tmp_path}", "data.options.size=8", "data.options.resize=8"]
    found = trained(composed("config", *words))
    assert accuracy(found.model, found.data, "test") == 1.0
    assert "no labels: accuracies are agreement with the dense network" in capsys.readouterr().out


def test_a_folder_of_another_command_is_no_search(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path / "run", {"recipe": {}, "run": ".."}, seeds={})
    with pytest.raises(ConfigError, match="is the folder of another command: give that of"):
        searched(record.folder, None)


def test_a_file_that_could_not_grow_is_told() -> None:
    told = message_of(OSError(errno.EFBIG, "File too large"))
    assert told is not None
    assert "lift the limit" in told
