"""Configurations compose and match their classes, and wrong ones are refused with a message."""

import copy
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from agents import ddpg, sb3
from agents.episode import Agent
from amc_env import building
from amc_env.building import LIMITS, make_env
from amc_env.data.specs import SPECS
from amc_env.data.splits import DataError
from amc_env.rewards import REWARDS
from amc_env.zoo import build, names
from experiments.cli.config import (
    CONF,
    ConfigError,
    accepted,
    check_settings,
    complete,
    instantiate,
    plain,
)
from experiments.cli.groups import OWN, DataConfig, ModelConfig, ProtocolConfig
from experiments.cli.signatures import SignatureError
from experiments.cli.suggest import explain, meant, unknown_key
from experiments.training.recipe import Recipe, RecipeError

EXPERIMENTS = sorted((CONF / "experiment").rglob("*.yaml"))
GIVEN = {("reproduce", "table"): "table2"}
NO_SETTINGS = {"render_mode", *OWN}
SPACES = {
    "observation_space": gym.spaces.Box(0, 1, (11,), np.float32),
    "action_space": gym.spaces.Box(0, 1, (1,), np.float32),
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def task(cfg):
    """A composed configuration that passes the check."""
    check_settings(cfg)
    return cfg


def typed(group: str, choice: str, kind: type) -> DictConfig:
    """A file of a typed group, merged into its schema: what composing does with it, without the rest."""
    return OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(CONF / group / f"{choice}.yaml"))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in ("compressor", "tracking", "experiment", "sweep")
        for choice in choices(group)
    ],
)
def test_every_choice_composes_and_passes_the_check(composed, group, choice):
    task(composed("config", f"{group}={choice}"))


@pytest.mark.parametrize("choice", choices("data"))
def test_data_choices_are_data_sets(choice):
    assert typed("data", choice, DataConfig).name == choice
    assert choice in (*SPECS, "imagefolder", "import", "photos")


@pytest.mark.parametrize("choice", choices("model"))
def test_model_choices_build(choice):
    model = typed("model", choice, ModelConfig)
    if choice == "import":
        model.options.target = "amc_env.zoo.tiny:digits_cnn"
    assert model.name in (*names(), "torchvision/resnet18", "timm/resnet18", "import")
    if choice not in ("torchvision", "timm"):
        options = plain(model.options)
        options |= {key: None for key in options if key == "weights"}  # those are of other images
        build(model.name, classes=10, in_channels=1, **options)


def test_the_zoos_networks_can_be_chosen():
    assert set(names()) - {"plain", "resnet", "tiny"} <= set(choices("model"))


@pytest.mark.parametrize("choice", choices("protocol"))
def test_protocols_name_what_exists(choice):
    protocol = typed("protocol", choice, ProtocolConfig)
    assert protocol.resource in LIMITS["resource"]
    assert protocol.reward in REWARDS
    assert 0 < protocol.target <= 1


@pytest.mark.parametrize("entry", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_entry_points_configuration_composes(composed, entry):
    needed = [key for key, value in OmegaConf.to_container(composed(entry)).items() if value == "???"]
    task(composed(entry, *(f"{key}={GIVEN.get((entry, key), 'given')}" for key in needed)))


def overridden(own: Any, composed: Any, name: str = "") -> Iterator[str]:
    """What a file sets itself and a composed configuration has otherwise; interpolations are left out."""
    if isinstance(own, dict) and own:
        for key, value in own.items():
            yield from overridden(value, composed[key], f"{name}.{key}")
    elif "${" not in str(own) and own != "???" and own != composed:
        yield f"{name} is {composed}, the file says {own}"


def test_the_default_agent_is_the_one_of_least_regret(composed):
    assert composed("config").agent._target_ == "agents.gp_errors.GPErrors"


@pytest.mark.parametrize(
    ("entry", "choice"),
    [(path.stem, None) for path in sorted(CONF.glob("*.yaml"))]
    + [("config", str(path.relative_to(CONF / "experiment").with_suffix(""))) for path in EXPERIMENTS],
)
def test_no_group_overrides_what_a_file_sets_itself(composed, entry, choice):
    file = CONF / (f"{entry}.yaml" if choice is None else f"experiment/{choice}.yaml")
    job = re.search(r"python -m experiments\.(\w+)", file.read_text())
    entry = entry if choice is None or job is None else {"search": "config"}.get(job[1], job[1])
    cfg = composed(entry, *([] if choice is None else [f"experiment={choice}"]))
    own = OmegaConf.to_container(OmegaConf.load(file))
    own = {key: value for key, value in own.items() if key not in ("defaults", "hydra")}
    assert not own or list(overridden(own, OmegaConf.to_container(cfg))) == []


def test_env_compressor_and_protocol_are_arguments_of_the_environment(composed):
    cfg = composed("config")
    given = plain(cfg.env) | plain(cfg.compressor) | plain(cfg.protocol)
    parameters = inspect.signature(make_env).parameters.values()
    expected = {one.name: one.default for one in parameters if one.default is not one.empty}
    expected |= {one.name: one.default for one in dataclasses.fields(building.Settings)}
    assert set(given) == set(expected) - NO_SETTINGS
    assert given.pop("scale") is None  # the agent's
    for name, value in given.items():
        assert value == expected[name], f"{name} differs from the class"


def leaves(node):
    return sum(map(leaves, node.values())) if isinstance(node, dict) and node else 1


def test_the_main_job_has_at_most_fifty_settings(composed):
    assert leaves(plain(composed("config"))) <= 50


@pytest.mark.parametrize("choice", choices("agent"))
def test_the_file_of_an_agent_sets_nothing_of_other_groups(choice):
    assert "@package" not in (CONF / "agent" / f"{choice}.yaml").read_text()


@pytest.mark.parametrize("choice", choices("agent"))
def test_every_agent_is_built_from_its_settings(composed, choice):
    node = task(composed("config", f"agent={choice}")).agent
    agent = instantiate(node, seed=0, **SPACES, **accepted(node, decisions=4))
    assert all(hasattr(agent, method) for method in dir(Agent) if not method.startswith("_"))


@pytest.mark.parametrize(
    ("choice", "target", "expected"),
    [
        ("ddpg_paper", "agents.ddpg.DDPG", ddpg.Settings()),
        ("sb3_ddpg", "agents.sb3.StableBaselines", sb3.Settings()),
        ("sb3_td3", "agents.sb3.StableBaselines", sb3.Settings(algorithm="td3")),
    ],
)
def test_these_agents_are_their_classes_as_they_stand(composed, choice, target, expected):
    assert complete(composed("config", f"agent={choice}"))["agent"] == (
        {"_target_": target} | dataclasses.asdict(expected)
    )


def test_arguments_are_offered_to_those_that_take_them():
    rule = {"_target_": "agents.rules.Rule"}
    assert accepted(rule, factor=1.0, decisions=4) == {"factor": 1.0}
    assert accepted({"_target_": "agents.ddpg.DDPG"}, seed=0, decisions=4) == {"seed": 0}
    function = {"_target_": "amc_env.data.splits.load"}
    assert accepted(function, seed=0, decisions=4) == {"seed": 0}


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_both(composed):
    cfg = composed("config", "experiment=digits")
    assert (cfg.episodes, cfg.model.name) == (20, "digits_cnn")
    assert composed("config", "experiment=digits", "episodes=3").episodes == 3


def test_recipes_follow_the_class(composed):
    for node in (composed("config").finetune, composed("pretrain").recipe):
        Recipe(**plain(node))
        assert set(node) == {field.name for field in dataclasses.fields(Recipe)}
    assert composed("config", "seed=3").finetune.seed == 3
    with pytest.raises(ValueError, match="there are onecycle, cosine"):
        Recipe(schedule="linear")
    with pytest.raises(ValueError, match=r"lr is 0\.0, it is at least"):
        Recipe(lr=0.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["episodes=0"], "episodes is 0, it is at least 1"),
        (["episodes=-3"], "episodes is -3"),
        (["seed=-1"], "seed is -1, it is at least 0"),
        (["save_every=0"], "save_every is 0, it is at least 1"),
        (["agent=ddpg_elites", "agent.sigma=abc"], "agent.sigma is 'abc', expected float"),
        (["agent=ddpg_elites", "agent.sigma=null"], "agent.sigma is None, expected float"),
        (["agent=ddpg_elites", "agent.sigmma=1"], r"no key 'agent.sigmma' .*did you mean agent.sigma"),
        (["agent=uniform", "agent.sigma=1"], "no key 'agent.sigma'"),
        (["tracking.mod=online"], r"no key 'tracking.mod' .*did you mean tracking.mode"),
        (["tracking.project=3"], "tracking.project is 3, expected str"),
        (["~agent._target_"], "no _target_ in group 'agent'"),
        (["agent._target_=agents.ddpg.Nobody"], "agents.ddpg.Nobody: there is no such class or function"),
        (["agent._target_=agents.nowhere.Agent"], "agents.nowhere: there is no such module"),
        (["agent._target_=nowhere_at_all.Agent"], "nowhere_at_all.Agent cannot be loaded"),
        (["agent=ddpg_elites", "agent.batch=1.5"], "agent.batch is 1.5, expected int"),
        (["agent=ddpg_elites", "agent.hidden=[300,300]"], r"agent.hidden is \[300, 300\], expected int"),
        (["model=import"], "no value for model.options.target: give it as model.options.target=VALUE"),
    ],
)
def test_values_that_cannot_be(composed, overrides, message):
    with pytest.raises((ConfigError, SignatureError), match=message):
        task(composed("config", *overrides))


def test_an_integer_will_do_where_a_float_is_meant(composed):
    task(
        composed("config", "agent=ddpg_elites", "agent.sigma=1", "env.reward_images=null", "tracking.group=x")
    )
    task(composed("config", "tracking.group=null", "tracking.tags=[a,b]"))


@pytest.mark.parametrize("override", ["env=amc", "finetune=null"])
def test_a_value_in_the_place_of_settings(override, composed):
    with pytest.raises(ConfigError, match=r"give its settings, as \w+\.KEY=VALUE"):
        task(composed("config", override))


def test_an_experiment_file_that_misspells_a_setting_of_an_agent(composed, tmp_path):
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\nagent:\n  sigma_dekay: 0.9\n")
    override = f"hydra.searchpath=[{tmp_path}]"
    with pytest.raises(ConfigError, match=r"no key 'agent\.sigma_dekay'.*did you mean agent\.sigma_decay"):
        task(composed("config", override, "agent=ddpg_elites", "experiment=mine"))
    task(composed("config", override, "agent=ddpg_elites", "experiment=mine", "~agent.sigma_dekay"))


def test_a_setting_that_a_file_does_not_list_is_the_classs(composed):
    cfg = task(composed("config", "agent=cmaes", "agent.population=5"))
    assert complete(cfg)["agent"] == {"_target_": "agents.blackbox.CMAES", "sigma": 0.2, "population": 5}


def test_instantiate_passes_objects_on_untouched():
    passed = object()
    assert instantiate({"_target_": "agents.rules.Rule", "part": 0.5}, factor=passed).factor is passed
    with pytest.raises(ConfigError, match="no _target_"):
        instantiate({"factor": 1})
    with pytest.raises(ConfigError, match="is not callable"):
        instantiate({"_target_": "amc_env.data.specs.SPECS"})
    with pytest.raises(ConfigError, match=r"agents\.rules\.Rule: .*unexpected keyword argument 'parts'"):
        instantiate({"_target_": "agents.rules.Rule", "parts": 1})


def test_what_a_class_refuses_is_told_by_name_but_our_own_errors_stay_themselves():
    with pytest.raises(ConfigError, match=r"agents\.ddpg\.DDPG: tau is 2, it is at least 0 and at most 1"):
        instantiate({"_target_": "agents.ddpg.DDPG", "tau": 2}, seed=0, **SPACES)
    with pytest.raises(RecipeError):
        instantiate({"_target_": "experiments.training.recipe.Recipe", "teacher": "x"})
    with pytest.raises(DataError):
        instantiate({"_target_": "amc_env.data.splits.load", "name": "mnist"})


def test_near_names():
    known = ["agent.sigma", "agent.sigma_decay", "seed", "data.seed", "episodes"]
    assert meant("sed", known).startswith(" (did you mean seed")
    assert meant("agent.sigm", known).startswith(" (did you mean agent.sigma")
    assert meant("sigma_decay", known).startswith(" (did you mean agent.sigma_decay")
    assert meant("qqqqqq", known) == ""
    assert unknown_key("qqqqqq", known) == "no key 'qqqqqq' in the configuration"
    assert unknown_key("model.options.qqqqqq", known).endswith("is added as +model.options.qqqqqq=VALUE")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            "model=plan20 agent=ddpg data=digits,cifar hydra/launcher=joblibb modle=plain20 epsodes=3 "
            "sigma_decay=3 hydra.launchr.n_jobs=2 seed=1 +new=1",
            [
                r"no 'plan20' in group 'model' \(did you mean plain20\?\); there are digits_cnn, ",
                r"no 'ddpg' in group 'agent'; there are .*, ddpg_elites, ddpg_paper, ",
                r"no 'cifar' in group 'data' \(did you mean cifar10 or cifar100\?\)",
                r"no 'joblibb' in group 'hydra/launcher' \(did you mean joblib\?\); there are basic, ",
                r"no key 'modle' in the configuration \(did you mean model\?\)$",
                r"no key 'epsodes' .*did you mean episodes",
                r"no key 'sigma_decay' in the configuration$",
                r"no key 'hydra\.launchr\.n_jobs'",
            ],
        ),
        (
            "-m agent=uniform agent.sigma=3 model=mobilenet_v1 model.options.widht=0.25,0.5",
            [
                r"no key 'agent\.sigma' in the configuration$",
                r"no key 'model\.options\.widht' .*did you mean model\.options\.width",
            ],
        ),
        ("model=import", [r"no value for model\.options\.target: give it as model\.options\.target=VALUE"]),
        ("model=import model.options.target=m:f", ["the error itself"]),
        ("seed=[1", [r"seed=\[1 cannot be read \(the error itself\): put quotes around its value"]),
        (
            "+contenders.kl=[agent=gp,protocol.reward=kl]",
            [r".*put quotes around its entries, as \"\+contenders\.kl=\['agent=gp','protocol.reward=kl'\]\""],
        ),
        ("seed=1", ["the error itself"]),
    ],
)
def test_a_wrong_command_line_is_explained(words, messages):
    explained = explain(ValueError("the error itself"), CONF, "config", words.split()).splitlines()
    assert len(explained) == len(messages)
    for line, message in zip(explained, messages, strict=True):
        assert re.match(message, line)


ENTRY = """
from experiments.cli import config

config.command("fetch", job="its_job:work")()
"""
JOB = """
from experiments.training.recipe import RecipeError

def work(cfg, folder):
    {body}
"""


def run(tmp_path: Path, body: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "entry.py").write_text(ENTRY)
    (tmp_path / "its_job.py").write_text(JOB.format(body=body))
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)} | environment
    command = [sys.executable, str(tmp_path / "entry.py"), *words]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)


def test_an_entry_point_tells_errors_apart(tmp_path):
    ours = "raise RecipeError('lr is odd')"
    done = run(tmp_path, ours)
    assert (done.returncode, done.stderr, done.stdout) == (2, "error: lr is odd\n", "")
    done = run(tmp_path, "raise ZeroDivisionError('a fault')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "its_job.py" in done.stderr
    done = run(tmp_path, "raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    done = run(tmp_path, ours, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_sweep_goes_on_after_a_job_that_fails(tmp_path):
    body = "print(cfg.data.name)\n"
    body += "    if cfg.data.name == 'digits': raise RecipeError('lr is odd')"
    done = run(tmp_path, body, "-m", "data=digits,cifar10", "hydra.sweep.dir=sweep")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert lines == ["2 runs in sweep: 0 finished, 2 left to do", "digits", "cifar10"]
    assert done.returncode == 2
    assert "error: 1 of 2 runs failed" in done.stderr
    assert done.stderr.endswith("data=digits: lr is odd\n")


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    done = run(tmp_path, "print('never')", "hydra.run.dir=file/run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the output folder cannot be written (")
    assert done.stderr.count("\n") == 1


def test_a_misspelt_command_fails_before_torch_is_imported():
    """The whole command, in a process of its own."""
    command = [sys.executable, "-X", "importtime", "-m", "experiments.fetch", "data=fasion_mnist"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean fashion_mnist" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "numpy", "wandb", "gymnasium"}


def test_the_schemas_are_not_copied_with_each_question_of_hydra_and_stay_as_they_are():
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    store.load("search_schema.yaml").node.seed = 7
    assert OmegaConf.is_missing(store.load("search_schema.yaml").node, "seed")


@pytest.mark.parametrize("command", ["config", "finetune", "pretrain", "deep_compress"])
def test_each_run_of_a_sweep_has_a_folder_of_its_own_and_is_resumed(composed, command: str) -> None:
    hydra = composed(command, full=True).hydra
    assert hydra.sweeper._target_.endswith("ResumableSweeper")
    assert OmegaConf.to_container(hydra, resolve=False)["sweep"]["subdir"] == "${hydra.job.override_dirname}"
