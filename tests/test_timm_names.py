"""Networks of timm by name, with weights from a file."""

import sys
import warnings

import pytest
import safetensors.torch
import torch

from amc_env import zoo
from amc_env.card import Card
from amc_env.checkpoints import load, save

NAME = "timm/lcnet_035"

pytest.importorskip("timm")


def error_of(name=NAME, **options):
    with pytest.raises(zoo.ModelError) as caught:
        zoo.build(name, **{"classes": 5, "in_channels": 1, **options})
    return str(caught.value)


def test_a_network_reads_images_of_any_channels_and_follows_the_seed():
    before = torch.random.get_rng_state()
    model, again, other = (zoo.build(NAME, classes=5, in_channels=1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    zoo.check(model, (1, 32, 32), 5)
    assert torch.equal(model.conv_stem.weight, again.conv_stem.weight)
    assert not torch.equal(model.conv_stem.weight, other.conv_stem.weight)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file_as_people_have_them(tmp_path, ending):
    source = zoo.build(NAME, classes=5, in_channels=1, seed=3)
    path, state = tmp_path / f"weights.{ending}", source.state_dict()
    if ending == "pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        safetensors.torch.save_file(state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the prefix
        found = zoo.build(NAME, classes=5, in_channels=1, weights=str(path)).state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert "of another shape, as classifier.weight" in error_of(classes=6, weights=str(path))


def test_a_checkpoint_is_read_without_its_first_weights(tmp_path):
    source = zoo.build(NAME, classes=5, in_channels=1, seed=3)
    save(tmp_path / "net", source, Card(NAME, 5, 1, "x", (1, 32, 32), 0, "", options={"weights": "gone.pth"}))
    again, _ = load(tmp_path / "net")
    assert torch.equal(again.conv_stem.weight, source.conv_stem.weight)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "timm/resnet19",
            {},
            ["no network 'resnet19'", "did you mean ", "resnet18", "timm.list_models() names all 1,"],
        ),
        ("timm/", {}, ["no network ''; timm.list_models()"]),
        (f"{NAME}.no_such_tag", {}, ["timm cannot build it: Invalid pretrained tag (no_such_tag)"]),
        (NAME, {"weights": "gone.pth"}, ["gone.pth does not exist"]),
        (NAME, {"weights": "DEFAULT"}, ["weights=DEFAULT is no path of a file (.safetensors, .pth, "]),
        (NAME, {"pretrained": True}, ["pretrained is timm's own option", "weights=FILE"]),
        (NAME, {"checkpoint_path": "x.pth"}, ["checkpoint_path is timm's own option", "weights=FILE"]),
        (NAME, {"widht": 2}, [NAME, "widht"]),
    ],
)
def test_a_wrong_name_or_option_says_what_there_is(name, options, words):
    message = error_of(name, **options)
    assert len(message) < 300
    for word in words:
        assert word in message


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'amc-rl[timm]'" in error_of()
