"""Copies a finished run into the folder of committed records that it belongs to."""

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from amc_env import files
from experiments.analysis import published
from experiments.analysis.families import ABOUT
from experiments.analysis.joining import gathered, joined, joined_parts
from experiments.analysis.regret import COUNTS
from experiments.cli.config import CONF
from experiments.cli.preflight import check_name
from experiments.cli.signatures import ROOT, settings
from experiments.recording.committed import row_a_line, whole
from experiments.recording.record import RunRecord

RESULTS = ROOT / "experiments/results"
SEARCHES, REGRET = "searches", "regret"  # folders of it
TUNED, FIDELITY, TABLES, PRETRAINED = "tuned", "fidelity", "tables", "pretrained"
COMPRESSED, PHOTOS, FAMILIES, NETWORKS = "deep_compression", "photos", "families", "networks"
OPTIMA, REPAIRS = "tuned_optima", "repairs"
JOINED = dict.fromkeys((REGRET, TUNED, PHOTOS, FAMILIES), joined) | {
    FIDELITY: joined_parts,
    NETWORKS: gathered,
}
LATENCY, MILLISECONDS = "latency", "milliseconds"  # tables of `experiments.latency`, and networks by them
SEARCH = ("format", "config", "seeds", "versions", "commit", "best", "results", "seconds")
ASKED = ("job", "overrides", "choices")  # what is kept of how a search was started
COMPARISON = ("format", "config", "seeds", "versions", "commit", "results", "seconds")
ROW_OF = (
    "network",
    "table",
    "contender",
    "policy",
    "plan",
    "target",
    "seed",
)  # keys of which two rows are not the same


class KeepError(ValueError):
    """A run that cannot become a committed record."""


def keep(folder: Path, name: str) -> Path:
    """Copy the parts of a finished record that tables need into the committed results.

    An interrupted comparison of policies keeps the seeds of a policy that have every target. An
    interrupted comparison of ways of compressing keeps all rows, and its table says that it was stopped. An
    interrupted survey of networks keeps those that it examined; a later one is joined to it.

    Raises:
        KeepError: for a run that has not finished, is kept already, or is not what its name says.
    """
    check_name(name)
    record = RunRecord.read(folder)
    group = group_of(record)
    if group == TUNED and name.partition("-")[0] in ABOUT:
        group = FAMILIES
    stopped = record.content["status"] != "finished"
    if stopped and not (group in (FAMILIES, NETWORKS) and record.rows):
        _shorten(record, group)
    place = RESULTS / (_named(name) if group == TUNED else group)
    path = place / f"{name}.json"
    if group.startswith((SEARCHES, TABLES)):
        kept = _search(record, name)
        if group == SEARCHES:
            _check_search(record.content["config"], name, place)
        else:
            _check_row(record)
    else:
        kept = {key: record.content[key] for key in COMPARISON}
        if group != COMPRESSED:
            kept["rows"] = record.rows
            kept |= {"stopped": True} if stopped and group == FAMILIES else {}  # the table says so
            _check_rows(record)
            if group not in (NETWORKS, PRETRAINED):
                _check_name(record.content["config"], name)
            if group == REGRET:
                _check_regret(record, name)
            if group == PHOTOS:
                _check_photos(record, place)
        kept["config"] = _without_places(kept["config"])
    if path.exists() and group in JOINED:
        before = whole(path)
        if all(row in before["rows"] for row in kept["rows"]):
            raise KeepError(f"{name} has every row of this run already")
        kept = JOINED[group](before, kept)
    elif path.exists():
        raise KeepError(f"{name} is kept already: remove {path} first, or give another name")
    _check_new(kept, place)
    files.write(path, row_a_line(kept, path.stem))
    return path


def _shorten(record: RunRecord, group: str) -> None:
    """Reduce an interrupted comparison of policies to the seeds of a policy that have every target.

    Raises:
        KeepError: if there are none, and for any other unfinished run.
    """
    config, ended = record.content["config"], dict[tuple[str, int], set[float]]()
    if group == TUNED:
        for row in record.rows:
            ended.setdefault((row["policy"], row["seed"]), set()).add(row["target"])
    whole = {key for key, targets in ended.items() if targets == set(config["targets"])}
    if not whole:
        raise KeepError(f"{record.folder} is {record.content['status']}: only a finished run is reported")
    record.rows = [row for row in record.rows if (row["policy"], row["seed"]) in whole]
    contenders = {name: config["contenders"][name] for name in config["contenders"] if name in dict(whole)}
    first, last = (f(seed for _, seed in whole) for f in (min, max))
    record.content["config"] = config | {
        "contenders": contenders, "first_seed": first, "seeds": last - first + 1
    }  # fmt: skip


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
            for one in (record.content["config"], whole(path)["config"])
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
            f"{record.folder} has {config['episodes']} evaluations a search, the table of regret needs "
            f"{max(COUNTS)}: give episodes={max(COUNTS)}"
        )
    for name, critics in record.content["results"].get("critics", {}).items():
        if config["table"] in critics["tables"]:
            raise KeepError(
                f"{name} plays with critics that were trained on this table as well: give "
                "agent.critic=runs/pretrain_agent/critics/TABLE.safetensors, of experiments.pretrain_agent"
            )


def group_of(record: RunRecord) -> str:
    """The folder of results that a run belongs to, by the keys of its configuration.

    Raises:
        KeepError: for a run that no table reads.
    """
    config = record.content["config"]
    if "contenders" in config:
        if "one_shot" in config:
            if config["resource"] != "macs":
                raise KeepError(
                    f"{record.folder} has a budget of {config['resource']}, the table of photographs is of "
                    "macs: run its networks with `python -m experiments.latency runs=[...]`"
                )
            return PHOTOS
        if "tunings" in config:
            return OPTIMA
        return TUNED if "recipe" in config else REGRET
    if "critic" in config:
        return PRETRAINED
    if "sharing" in config:
        return COMPRESSED
    if "plans" in config and "models" in config:
        return NETWORKS
    if "plans" in config and "steps" in config:
        return FIDELITY if config["seeds"] else REPAIRS
    if not {"agent", "protocol", "episodes"} <= set(config):
        raise KeepError(f"{record.folder} is neither a search nor a comparison: no table is made of it")
    experiment = (record.content["run"].get("choices") or {}).get("experiment") or ""
    table, _, row = experiment.rpartition("/")
    return f"{TABLES}/{table}" if row and table else SEARCHES


def _named(name: str) -> str:
    """The folder in which a table of ``published.yaml`` looks for a comparison of policies by this name."""
    rows = (row for table in published.tables().values() for row in table["rows"])
    named = {row["record"]["name"].rpartition("/")[::2] for row in rows if "record" in row}
    return next((folder for folder, last in named if last == name), TUNED)


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which paths of this machine are replaced by the names of their files."""
    found = dict(config)
    for key in ("critic", "policy"):
        if found.get(key):
            found[key] = Path(found[key]).name
    for group, key in (("model", "checkpoint"), ("data", "root")):
        if (found.get(group) or {}).get(key):
            found[group] = found[group] | {key: Path(found[group][key]).name}
    return found


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
        other = whole(path)["config"]
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
        raise KeepError(f"{record.folder} has {len(twice)} duplicate rows, such as {what}: run it again")


def _check_new(kept: Mapping[str, Any], place: Path) -> None:
    """Refuse a run that is already kept under another name."""
    for path in sorted(place.glob("*.json")):
        other = whole(path)
        same = [key for key in ("config", "seconds", "rows", "rewards") if key in kept]
        if all(kept[key] == other.get(key) for key in same):
            raise KeepError(f"the same run is kept as {path.stem}")


def _same(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differing = [key for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]
    if differing:
        listed = ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in differing)
        raise KeepError(f"the run does not belong to {what}: it has {listed}; choose the name that it is of")


def _search(record: RunRecord, name: str) -> dict[str, Any]:
    """The parts of a search that tables need."""
    config = record.content["config"]
    episodes = [row for row in record.rows if "reward" in row]
    return {key: record.content[key] for key in SEARCH} | {
        "agent": name.partition("-")[0],
        "run": _asked(record.content["run"]),
        "target": config["protocol"]["target"],
        "episodes": config["episodes"],
        "rewards": [round(row["reward"], 5) for row in episodes],
        "elapsed": [round(at, 2) for at in accumulate(row["episode_seconds"] for row in episodes)],
    }


def _asked(run: Mapping[str, Any]) -> dict[str, Any]:
    """How a search was started, without its folder; of other places on this machine the last name is kept."""
    asked = {key: run[key] for key in ASKED if key in run}
    if "overrides" in asked:
        words = [word.partition("=") for word in asked["overrides"]]
        asked["overrides"] = [
            f"{key}{equals}{Path(value).name if value.startswith('/') else value}"
            for key, equals, value in words
            if key != "output"
        ]
    return asked
