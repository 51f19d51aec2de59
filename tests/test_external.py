"""Networks of torchvision and of the user's own: built, adapted to the images, wrong input refused."""

import sys
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card
from amc_env.zoo.external import torchvision_names

SMALL = "torchvision/shufflenet_v2_x0_5"


def error_of(name, **options):
    with pytest.raises(zoo.ModelError) as caught:
        zoo.build(name, **{"classes": 10, "in_channels": 1, **options})
    return str(caught.value)


def test_a_torchvision_network_reads_images_of_any_channels_and_follows_the_seed():
    before = torch.random.get_rng_state()
    model, again, other = (zoo.build(SMALL, classes=7, in_channels=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    first = model.conv1[0]
    assert (first.in_channels, first.weight.shape) == (2, (24, 2, 3, 3))
    assert torch.equal(first.weight, again.conv1[0].weight)
    assert not torch.equal(first.weight, other.conv1[0].weight)
    zoo.check(model, (2, 64, 64), 7)
    model(torch.ones(2, 2, 64, 64)).sum().backward()
    assert first.weight.grad.abs().sum() > 0


def test_options_go_to_the_networks_class():
    model = zoo.build("torchvision/mobilenet_v2", classes=3, in_channels=3, width_mult=0.25)
    assert model.features[1].conv[1].out_channels == 8


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 75)])
def test_auxiliary_heads_are_off_in_training_too_and_nothing_warns(name, side):
    with torch.device("meta"):
        model = zoo.build(f"torchvision/{name}", classes=5, in_channels=3).train()
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 5)
    assert [child for child, _ in model.named_modules() if child.lower().startswith("aux")] == []


def test_all_families_of_the_installed_torchvision_are_listed():
    assert {"alexnet", "densenet121", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny"} < set(
        torchvision_names()
    )


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path, ending):
    source = zoo.build(SMALL, classes=5, in_channels=1, seed=3)
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(source.state_dict(), path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
    model = zoo.build(SMALL, classes=5, in_channels=1, weights=str(path))
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert "of another shape, as fc.weight" in error_of(SMALL, classes=6, weights=str(path))


def test_weights_from_a_file_that_is_missing_or_no_weights(tmp_path):
    assert "nothing.pth does not exist" in error_of(SMALL, weights=str(tmp_path / "nothing.pth"))
    for ending, content in (("pth", b"not a zip"), ("safetensors", b"short")):
        path = tmp_path / f"bad.{ending}"
        path.write_bytes(content)
        assert f"{path} cannot be used" in error_of(SMALL, weights=str(path))


def test_a_weights_file_builds_nothing_but_tensors(tmp_path):
    torch.save({"x": Unpickled()}, tmp_path / "evil.pth")
    assert "cannot be used" in error_of(SMALL, weights=str(tmp_path / "evil.pth"))
    assert not Unpickled.was


class Unpickled:
    was = False

    def __setstate__(self, state):
        Unpickled.was = True

    def __getstate__(self):
        return {"some": "state"}


def test_weights_by_torchvisions_download_lose_their_auxiliary_heads(tmp_path, monkeypatch):
    state = torchvision.models.GoogLeNet(aux_logits=True, init_weights=False).state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda url, path, *rest, **more: torch.save(state, path)
    )
    model = zoo.build("torchvision/googlenet", classes=1000, in_channels=3, weights="DEFAULT")
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert not any(name.startswith("aux") for name in model.state_dict())
    assert model.transform_input  # the published weights want it


def test_a_download_that_fails_says_what_else_to_do(tmp_path, monkeypatch):
    def offline(*arguments, **more):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    message = error_of(SMALL, classes=1000, in_channels=3, weights="DEFAULT")
    assert "DEFAULT cannot be downloaded (<urlopen error no network>)" in message
    assert "give a file's path as weights" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("torchvision/resnet19", {}, ["no classifier 'resnet19'", "did you mean resnet18"]),
        ("torchvision/", {}, ["no classifier ''", "alexnet"]),
        (SMALL, {"weights": "DEFAULT"}, ["for 1000 classes and 3 channels, not for 10 and 1"]),
        (SMALL, {"weights": "V9"}, ["no weights 'V9'", "DEFAULT, IMAGENET1K_V1", ".safetensors"]),
        (SMALL, {"pretrained": True}, ["use weights=DEFAULT"]),
        (SMALL, {"widht": 2}, [SMALL, "widht"]),
        ("import", {}, ["import needs the option target"]),
        ("import", {"target": "nets.build"}, ["target is module:function", "'nets.build'"]),
        ("import", {"target": "no_such_nets.a:build"}, ["no module 'no_such_nets'", "PYTHONPATH"]),
        ("import", {"target": "nets.b:build"}, ["no module 'nets.b'"]),
        ("import", {"target": "nets:biuld"}, ["nets has no function 'biuld'", "build, listed"]),
        ("import", {"target": "nets:build", "size": 3}, ["size=3", "unexpected keyword argument 'size'"]),
        ("import", {"target": "nets:listed"}, ["nets:listed returned list, not a torch.nn.Module"]),
        ("import", {"target": "nets:refuse"}, ["import: no such width"]),
    ],
)
def test_a_wrong_name_or_option_says_what_there_is(nets, name, options, words):
    message = error_of(name, **options)
    for word in words:
        assert word in message


NETS = """
from torch import nn as _nn

def build(classes, in_channels, width=4):
    return _nn.Sequential(_nn.Conv2d(in_channels, width, 3), _nn.Flatten(1), _nn.Linear(width * 36, classes))

def listed(**options):
    return [1]

def refuse(**options):
    raise ValueError("no such width")
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "half.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("nets", None)


@pytest.mark.usefixtures("nets")
def test_a_users_own_function_gets_classes_channels_and_options():
    model = zoo.build("import", classes=6, in_channels=2, target="nets:build", width=8)
    assert model[0].weight.shape == (8, 2, 3, 3)
    assert isinstance(model, nn.Module)
    zoo.check(model, (2, 8, 8), 6)


@pytest.mark.usefixtures("nets")
def test_a_module_that_is_there_but_lacks_a_dependency_is_not_reported_missing():
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        zoo.build("import", classes=6, in_channels=2, target="half:build")


def test_a_checkpoint_of_a_downloaded_network_is_loaded_without_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda *rest, **more: pytest.fail("went to the network")
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    card = Card(SMALL, 1000, 3, "images", (3, 32, 32), 0, "abc", options={"weights": "DEFAULT"})
    model = zoo.build(SMALL, classes=1000, in_channels=3, seed=4)
    weights.save(tmp_path / "net", model, card)
    loaded, read = weights.load(tmp_path / "net")
    assert read.options == {"weights": "DEFAULT"}  # where they came from is not forgotten
    assert torch.equal(loaded.fc.weight, model.fc.weight)
