"""Checks that a finished run belongs to the committed records that it is to be one of."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from amc_env.checks import number_of
from experiments.analysis.folders import (
    COMPRESSED,
    NETWORKS,
    PHOTOS,
    PRETRAINED,
    REGRET,
    SEARCHES,
    TABLES,
    KeepError,
)
from experiments.analysis.regret import COUNTS
from experiments.cli.config import CONF
from experiments.cli.signatures import ROOT, settings
from experiments.recording.committed import read_committed
from experiments.recording.record import RunRecord

ROW_OF = ("network", "table", "contender", "policy", "plan", "target", "seed")  # tell rows apart


def check(record: RunRecord, group: str, path: Path) -> None:
    """Check a run against its group and the name of the file that it is to be.

    Args:
        record: finished, or cut down to what is.
        group: of `folders.group_of`.
        path: of the file.

    Raises:
        KeepError: if it does not belong there.
    """
    config, name, place = record.content["config"], path.stem, path.parent
    if group == SEARCHES:
        _check_search(config, name, place)
    elif group.startswith(TABLES):
        _check_row(record)
    elif group != COMPRESSED:
        _check_rows(record)
        if group not in (NETWORKS, PRETRAINED):
            _check_name(config, name)
        if group == REGRET:
            _check_regret(record, name)
        if group == PHOTOS:
            _check_photos(record, place)


def _check_row(record: RunRecord) -> None:
    """Check that a search is a whole run of its experiment file, not a short try or one on other data.

    A file in a folder of the user's own is a row of no paper's table.

    Raises:
        KeepError: if not, as a row of a paper's table is made of it.
    """
    experiment = record.content["run"]["choices"]["experiment"]
    if not (CONF / "experiment" / f"{experiment}.yaml").exists():
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = compose("config", [f"experiment={experiment}"])
    config = record.content["config"]
    _same(f"the table's row {experiment}", {"data": asked.data.name}, {"data": config["data"]["name"]})
    for key, least, found in (
        ("episodes", asked.episodes, config["episodes"]),
        ("finetune.epochs", asked.finetune.epochs, config["finetune"]["epochs"]),
    ):
        if found < least:
            raise KeepError(
                f"{record.folder} is a short try of {experiment}: it has {key}={found}, a row of its table "
                f"has at least {least}"
            )


def _check_photos(record: RunRecord, place: Path) -> None:
    """Check that a comparison on photographs is of the network, images and compressor of the others.

    Raises:
        KeepError: if not, as one table is made of all.
    """
    for path in sorted(place.glob("*.json"))[:1]:
        config, other = (
            {key: one[key] for key in ("model", "compressor")} | {"data.options": one["data"]["options"]}
            for one in (record.content["config"], read_committed(path)["config"])
        )
        _same(f"{path.parent.name}/", other, config)


def _check_regret(record: RunRecord, name: str) -> None:
    """Check that a comparison has its table's name and length, and that no agent has seen its network.

    Raises:
        KeepError: if not.
    """
    config = record.content["config"]
    if name != config["table"]:
        raise KeepError(
            f"the table of regret has one record a table: the name is {config['table']}, not {name}"
        )
    if config["episodes"] < max(COUNTS):
        raise KeepError(
            f"{record.folder} has {number_of(config['episodes'], 'evaluation')} a search, the table of "
            f"regret needs {max(COUNTS)}: give episodes={max(COUNTS)}"
        )
    for name, critics in record.content["results"].get("critics", {}).items():
        if config["table"] in critics["tables"]:
            raise KeepError(
                f"{name} plays with critics that were trained on this table as well: give "
                "agent.critic=runs/pretrain_agent/critics/TABLE.safetensors, of experiments.pretrain_agent"
            )


def agent_settings(name: str) -> dict[str, Any]:
    """All settings of an agent, by its file in ``conf/agent``.

    Raises:
        KeepError: where there is no such file.
    """
    file = ROOT / "conf/agent" / f"{name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise KeepError(f"there is no agent {name!r}, with which the name has to begin; there are {known}")
    found = OmegaConf.load(file)
    assert isinstance(found, DictConfig)
    parents = [one for one in found.pop("defaults", []) if one != "_self_"]
    made = {key: value for parent in parents for key, value in agent_settings(parent).items()}
    made |= {str(key): value for key, value in found.items()}
    return {key: one.default for key, one in settings(made["_target_"]).items()} | made


def _check_search(config: Mapping[str, Any], name: str, place: Path) -> None:
    """Check a search against its name, AGENT-PROTOCOL-SEED, and the network and data of the others."""
    agent, protocol, seed = f"{name}--".split("-")[:3]
    _same(f"agent={agent}", agent_settings(agent), config["agent"])
    file = ROOT / "conf/protocol" / f"{protocol}.yaml"
    if not file.exists():
        raise KeepError(
            f"there is no protocol {protocol!r}: the name is AGENT-PROTOCOL-SEED, as ddpg_elites-flops_30-0"
        )
    asked = {str(key): value for key, value in OmegaConf.load(file).items()}
    _same(f"protocol={protocol}", asked, {key: config["protocol"].get(key) for key in asked})
    if seed != str(config["seed"]):
        raise KeepError(f"the name ends in seed {seed or 'none'}, the search is of seed {config['seed']}")
    for path in sorted(place.glob("*.json"))[:1]:
        other = read_committed(path)["config"]
        of = {key: config[key]["name"] for key in ("model", "data")}
        _same(f"{path.parent.name}/", {key: other[key]["name"] for key in of}, of)


def _check_name(config: Mapping[str, Any], name: str) -> None:
    """A comparison's name contains its table or network."""
    subject = config.get("table")
    if subject is None:
        subject = f"{config['model']['name']}-{config['data']['name']}".replace("/", "-")
    if subject not in name:
        raise KeepError(f"the name {name!r} does not say what this is of: put {subject} into it")


def _check_rows(record: RunRecord) -> None:
    """Refuse duplicate rows, which two processes in one folder leave."""
    rows = Counter(tuple((key, row.get(key)) for key in ROW_OF) for row in record.rows)
    if twice := [row for row, count in rows.items() if count > 1]:
        what = ", ".join(f"{key} {value}" for key, value in twice[0] if value is not None)
        raise KeepError(
            f"{record.folder} has {number_of(len(twice), 'duplicate row')}, such as {what}: run it again"
        )


def check_new(kept: Mapping[str, Any], place: Path) -> None:
    """Refuse a run that is already kept under another name."""
    for path in sorted(place.glob("*.json")):
        other = read_committed(path)
        same = [key for key in ("config", "seconds", "rows", "rewards") if key in kept]
        if all(kept[key] == other.get(key) for key in same):
            raise KeepError(f"the same run is kept as {path.stem}")


def _same(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differing = [key for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]
    if differing:
        listed = ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in differing)
        raise KeepError(f"the run does not belong to {what}: it has {listed}; choose the name that it is of")
