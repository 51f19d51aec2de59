"""Builds the environment and the agent that a configuration names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.actor_critic import ActorCritic
from agents.episode import Agent, Environment
from amc_env import checkpoints as weights
from amc_env import latency
from amc_env.actions import SCALES
from amc_env.building import make_env
from amc_env.card import CheckpointError
from amc_env.env import CompressionEnv
from amc_env.execution import device_of
from amc_env.functions import function as imported
from amc_env.zoo.states import is_state
from experiments.cli import commands, config, groups, limits
from experiments.cli.signatures import is_ours
from experiments.cli.trained import Trained, checkpoint_of, shipped
from experiments.recording.record import RunRecord

OF_SEARCH = ("model", "data", "protocol", "compressor", "env", "keep_whole", "part")
SPACES = {  # stand-ins for those of an environment, to check that an agent can be built
    "observation_space": gym.spaces.Box(0, 1, (11,), np.float32),
    "action_space": gym.spaces.Box(0, 1, (1,), np.float32),
}


def foresee(cfg: DictConfig) -> None:
    """Find errors of a search before its folder is made, in seconds and without reading data.

    Raises:
        ModelError, CheckpointError, DeviceError, LatencyError, ConfigError: for what is missing, unknown or
            does not fit.
    """
    name = cfg.model.name
    device_of(cfg.env.device)
    if cfg.protocol.latency is not None:
        latency.read(cfg.protocol.latency)
    if name != "import" and cfg.model.checkpoint is None and not cfg.model.options.get("weights"):
        shipped(cfg)
    given = checkpoint_of(cfg)
    if given and not is_state(given) and weights.read_card(given).compressed:
        raise CheckpointError(
            f"{given} is compressed already, and a checkpoint holds one plan: search from the dense network, "
            "or in rounds with experiments.policies stages=[...]"
        )
    if is_ours(cfg.agent["_target_"]):
        offered = config.accepted(cfg.agent, decisions=2)
        config.instantiate(cfg.agent, **SPACES, **offered, seed=0)


def searched(run: Path, target: str | None) -> DictConfig:
    """The configuration of a search, read from its record.

    A record is data and names no code to run: only the settings in `OF_SEARCH` are taken, each of its type in
    the schema, and the function that builds a network of the user's own has to be given again.

    Args:
        run: the folder of the search.
        target: ``module:function``, for a search with ``model=import``.

    Raises:
        ConfigError: when that function is needed and not given, or for settings that no search has.
    """
    found = RunRecord.read(run).content["config"]
    if not {"agent", "protocol", "model", "data"} <= found.keys():
        raise config.ConfigError(f"{run} is the folder of another command: give that of experiments.search")
    parts = {key: found[key] for key in OF_SEARCH if key in found}
    if "${" in json.dumps(parts):
        raise config.ConfigError(f"the record in {run} has a ${{...}} in it, which is read from no record")
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(commands.SearchConfig), parts)
    except OmegaConfBaseException as error:
        raise config.ConfigError(f"the record in {run} has no settings of a search: {error}") from error
    assert isinstance(cfg, DictConfig)
    if found.get("metric") or cfg.data.name == "import":
        raise config.ConfigError(
            f"{run} was measured by functions of your own, which a record does not name as code to run: "
            "give the search's command again, with the finetune.epochs that you want and another "
            "output=FOLDER"
        )
    if cfg.model.name == "import":
        if target is None:
            raise config.ConfigError(
                f"{run} is of a network of your own: give the function that builds it, as the search had it: "
                f"target={cfg.model.options.get('target')}"
            )
        cfg.model.options.target = target
    cfg.env.scale = cfg.env.scale or "relative"  # no agent acts on what is read
    for key, path in (("model.checkpoint", cfg.model.checkpoint), ("data.root", cfg.data.root)):
        if path is not None and not any(Path(f"{path}{ending}").exists() for ending in ("", *limits.STEM)):
            raise config.ConfigError(
                f"{run} is of a search with {key}={path}, which is not there: start this in the folder where "
                "the search was started, or put back what it read"
            )
    return cfg


def environment(cfg: DictConfig, original: Trained) -> CompressionEnv:
    """The environment that the groups protocol, compressor and env describe."""
    settings = config.plain(cfg.protocol) | config.plain(cfg.compressor) | config.plain(cfg.env)
    settings |= {key: config.plain(cfg)[key] for key in groups.OWN if key in cfg}
    if settings.get("metric") is not None:
        settings["metric"] = imported(settings["metric"], "metric")
    settings["scale"] = scale_of(cfg)
    with config.config_errors("the environment"):
        return make_env(original.model, original.data, **settings)


def scale_of(cfg: DictConfig) -> str:
    """The scale of actions: ``env.scale``, else the agent's own, else the relative one."""
    asked = cfg.env.scale
    return str(asked or getattr(config.located(cfg.agent["_target_"]), "scale", "relative"))


def build_agent(node: DictConfig | Mapping[str, Any], env: Environment, *, seed: int) -> Agent:
    """The agent that a node composed from the command line names, for an environment.

    Raises:
        ConfigError: for an agent that needs another scale than the environment has.
        UpdatesError: for an agent that would never learn.
    """
    task: Any = env.unwrapped
    decisions = len(task.graph.groups)
    offered = config.accepted(node, decisions=decisions)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    agent: Agent = config.instantiate(node, **spaces, **offered, seed=seed)
    if isinstance(settings := getattr(agent, "settings", None), ActorCritic):
        settings.updates(decisions)
    wanted = getattr(agent, "scale", None)
    if wanted is not None and type(task.scale) is not type(SCALES[wanted](1.0)):
        raise config.ConfigError(f"the actions of {node['_target_']} are {wanted}: leave env.scale out")
    if getattr(agent, "reads_errors", False) and task.compressor.errors is None:
        raise config.ConfigError(
            f"{node['_target_']} reads the errors of layers, which a repair of channels knows: give "
            "compressor.method=channels and a compressor.repair, or leave it out (contenders: only=[...])"
        )
    return agent
