"""Short names for networks of other libraries on the command line, also in sweeps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.cli.command_line import spelled_out
from experiments.cli.config import CONF
from experiments.cli.suggest import explain

ENTRY = """
from experiments.cli import config

config.command("pretrain", job="named:show")()
"""
JOB = """
def show(cfg, folder):
    print(cfg.model.name, dict(cfg.model.options))
"""


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "entry.py").write_text(ENTRY)
    (tmp_path / "named.py").write_text(JOB)
    command = [sys.executable, str(tmp_path / "entry.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("model=import target=m.n:f seed=1", "model=import model.options.target=m.n:f seed=1"),
        ("model=plain20,import target=m:f,m:g", "model=plain20,import model.options.target=m:f,m:g"),
        ("target=m:f model=import", "model.options.target=m:f model=import"),
        ("model=import protocol.target=0.3 target=m:f", None),
        ("model=plain20 target=0.3", "model=plain20 target=0.3"),
        ("model=importance target=0.3", "model=importance target=0.3"),
        ("target=m:f", "target=m:f"),
        ("model.name=import target=0.3", "model.name=import target=0.3"),
    ],
)
def test_target_beside_import_is_an_option_of_the_network(typed, read):
    read = read or "model=import protocol.target=0.3 model.options.target=m:f"
    assert spelled_out(typed.split()) == read.split()


def test_any_classifier_of_torchvision_is_a_choice(composed):
    words = ["model=torchvision/regnet_y_400mf", "model.options.weights=DEFAULT", "+model.options.width=2"]
    assert spelled_out(words) == words
    model = composed("config", *words).model
    assert model == {
        "name": "torchvision/regnet_y_400mf",
        "options": {"weights": "DEFAULT", "width": 2},
        "checkpoint": None,
    }
    assert composed("config", "model=torchvision").model.name == "torchvision/resnet18"


def test_any_network_of_timm_is_a_choice_with_its_tag(composed):
    words = ["model=timm/resnet50d.ra2_in1k", "model.options.weights=my.pth", "+model.options.drop_rate=0.1"]
    assert spelled_out(words) == words
    assert composed("config", *words).model == {
        "name": "timm/resnet50d.ra2_in1k",
        "options": {"weights": "my.pth", "drop_rate": 0.1},
        "checkpoint": None,
    }


def test_a_choice_of_torchvision_is_not_taken_for_a_mistake_beside_one():
    words = spelled_out(["model=torchvision/resnet50", "epsodes=3"])
    (line,) = explain(ValueError("unused"), CONF, "config", words).splitlines()
    assert line.startswith("no key 'epsodes' in the configuration (did you mean episodes?)")


def test_a_sweep_over_the_zoo_and_torchvision(tmp_path):
    models = "model=plain20,torchvision/resnet50,torchvision/vgg11_bn"
    done = run(tmp_path, "-m", models, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith("}")] == [
        "plain20 {'width': 1.0}",
        "torchvision/resnet50 {'weights': None}",
        "torchvision/vgg11_bn {'weights': None}",
    ]


def test_a_sweep_over_ones_own_networks(tmp_path):
    (tmp_path / "nets.py").write_text("one = two = print")
    done = run(tmp_path, "-m", "model=import", "target=nets:one,nets:two", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith("}")] == [
        "import {'target': 'nets:one'}",
        "import {'target': 'nets:two'}",
    ]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["checkpoint=[a=0/c.onnx,a=1/c.onnx]"], "checkpoint=['a=0/c.onnx','a=1/c.onnx']"),
        (["checkpoint=[a/b,c/d]"], "checkpoint=[a/b,c/d]"),
        (['checkpoint=["a=1,2"]'], 'checkpoint=["a=1,2"]'),
        (["checkpoint=a=0,b/c"], "checkpoint='a=0,b/c'"),
        (["-m", "checkpoint=a=0/c,a=1/c"], "checkpoint='a=0/c','a=1/c'"),
    ],
)
def test_each_path_of_a_list_or_sweep_is_quoted_by_itself(typed, read):
    assert spelled_out(typed)[-1] == read


@pytest.mark.parametrize("path", ["runs/c,d", "1e3", "1_000", "true", "nan", "tä.json", "choice(a,b)"])
@pytest.mark.parametrize("key", ["output", "table", "run"])
def test_a_path_is_a_text_whatever_else_hydra_would_read(path, key):
    spelled = next(word for word in spelled_out([f"{key}={path}"]) if word.startswith(f"{key}="))
    assert OverridesParser.create().parse_override(spelled).value() == path


def test_a_path_that_exists_is_no_sweep(tmp_path):
    folder = tmp_path / "agent=gp,seed=0"
    folder.mkdir()
    assert spelled_out(["-m", f"run={folder}"])[-1] == f"run='{folder}'"
    other = tmp_path / "agent=gp,seed=1"
    other.mkdir()
    assert spelled_out(["-m", f"run={folder},{other},c"])[-1] == f"run='{folder}','{other}',c"
