"""Settings read from the source of a class equal those of the class itself."""

import dataclasses
import inspect
import sys
from typing import Any

import pytest

from agents import blackbox, ddpg, sb3
from amc_env import building
from amc_env.actions import BETA
from amc_env.building import make_env
from experiments.cli.signatures import Setting, SignatureError, settings
from experiments.recording.wandb_tracker import WandbTracker
from experiments.training.recipe import Recipe


@pytest.mark.parametrize(
    ("target", "dataclass"),
    [
        ("agents.ddpg.DDPG", ddpg.Settings),
        ("agents.sb3.StableBaselines", sb3.Settings),
        ("experiments.training.recipe.Recipe", Recipe),
    ],
)
def test_fields_of_a_dataclass(target, dataclass):
    found = {name: setting.default for name, setting in settings(target).items()}
    assert found == dataclasses.asdict(dataclass())


@pytest.mark.parametrize("made", [WandbTracker, blackbox.CMAES])
def test_parameters_with_a_default(made):
    parameters = inspect.signature(made).parameters.values()
    expected = {p.name: p.default for p in parameters if p.default is not p.empty}
    found = settings(f"{made.__module__}.{made.__qualname__}")
    assert {name: setting.default for name, setting in found.items()} == expected


def test_a_function_that_passes_settings_on_has_their_fields():
    found = settings("amc_env.building.make_env")
    own = {one.name for one in dataclasses.fields(building.Settings)}
    assert own < set(found)
    assert set(found) - own == set(inspect.signature(make_env).parameters) - {"model", "data", "settings"}
    assert found["repair"] == Setting(str, "sequential", building.REPAIRS)


def test_types():
    found = settings("amc_env.building.make_env")
    assert found["reward_images"] == Setting(int | None, 1000, (1, 100_000_000))
    assert found["beta"] == Setting(float, 0.7, BETA)
    assert settings("agents.ddpg_elites.EliteDDPG")["warmup"] == Setting(int, 50, (0, 1_000_000))
    assert settings("agents.sb3.StableBaselines")["algorithm"] == Setting(Any, "ddpg", ("ddpg", "td3"))


def test_a_class_that_passes_nothing_on_does_not_take_what_its_base_takes():
    assert set(settings("agents.rules.Rule")) == {"factor", "part"}
    assert settings("agents.rules.Uniform") == {}


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        (Setting(float, 0.5), 1, None),
        (Setting(int, 1), 1.5, "int"),
        (Setting(int, 1), True, "int"),
        (Setting(int | None, None), None, None),
        (Setting(int | None, None), "x", "int or null"),
        (Setting(Any, "ddpg"), 3, "str"),
        (Setting(Any, None), 3, None),
    ],
)
def test_what_a_value_should_be(setting, value, expected):
    assert setting.expected(value) == expected


def test_a_class_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_agents.py").write_text(
        "from agents.blackbox import CMAES\n\n"
        "class Mine(CMAES):\n"
        "    def __init__(self, *args, sigma=0.3, patience: int = 4, **kwargs):\n"
        "        super().__init__(*args, sigma=sigma, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = settings("my_agents.Mine")
    assert {name: setting.default for name, setting in found.items()} == {
        "sigma": 0.3,
        "patience": 4,
        "population": 0,
    }
    del sys.modules["my_agents"]
    with pytest.raises(SignatureError, match=r"my_agents\.Other cannot be loaded"):
        settings("my_agents.Other")
