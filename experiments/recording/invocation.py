"""The command line of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

LONGEST = 128  # characters of a group's name in W&B


def hydra_job() -> dict[str, Any]:
    """The running Hydra job, its overrides and chosen files; empty without Hydra."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    choices = {group: name for group, name in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    return {"job": hydra.job.name, "overrides": list(hydra.overrides.task), "choices": choices}


def name(folder: Path, config: Mapping[str, Any]) -> str:
    """The name of a run: its folder's, for a fine-tuning after that of its search."""
    search = [(folder / config["run"]).resolve().name] if "run" in config else []
    return "-".join([*search, folder.name])


def group(config: Mapping[str, Any]) -> str | None:
    """The group that a run is compared in: its experiment file, else network, data, budget and reward.

    The file with another protocol is a group of its own, named by both.
    """
    job = hydra_job()
    experiment = job.get("choices", {}).get("experiment")
    if experiment and not any(word.lstrip("+~").startswith("protocol") for word in job["overrides"]):
        return str(experiment)
    if not {"model", "data", "protocol"} <= config.keys():
        return None
    model, protocol = config["model"], config["protocol"]
    network = (model.get("options") or {}).get("target") or model["name"]  # of the user's own
    limits = [f"{name}-{share:g}" for name, share in (protocol.get("limits") or {}).items()]
    words = [str(experiment)] if experiment else [network, config["data"]["name"]]
    words += [protocol["resource"], f"{protocol['target']:g}", *limits]
    return "-".join([*words, protocol["reward"]])[:LONGEST]


def agent(config: Mapping[str, Any]) -> str | None:
    """The name of the agent's file, else of its class; None for a run without an agent."""
    if "agent" not in config:
        return None
    chosen = hydra_job().get("choices", {}).get("agent")
    return str(chosen or str(config["agent"]["_target_"]).rpartition(".")[2])
