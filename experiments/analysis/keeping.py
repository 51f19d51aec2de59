"""Copies a finished run into the folder of committed records that it belongs to."""

import shlex
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from amc_env import files
from experiments.analysis import belonging
from experiments.analysis.families import ABOUT
from experiments.analysis.folders import (
    COMPRESSED,
    FAMILIES,
    FIDELITY,
    NETWORKS,
    PHOTOS,
    REGRET,
    SEARCHES,
    TABLES,
    TUNED,
    KeepError,
    group_of,
    place_of,
)
from experiments.analysis.joining import gathered, joined, joined_parts
from experiments.cli.preflight import check_name
from experiments.recording.committed import read_committed, row_a_line
from experiments.recording.record import RecordError, RunRecord

JOINED = dict.fromkeys((REGRET, TUNED, PHOTOS, FAMILIES), joined) | {
    FIDELITY: joined_parts,
    NETWORKS: gathered,
}
SEARCH = ("format", "config", "seeds", "versions", "commit", "best", "results", "seconds")
ASKED = ("job", "overrides", "choices")  # what is kept of how a search was started
COMPARISON = ("format", "config", "seeds", "versions", "commit", "results", "seconds")


def keep(folder: Path, name: str) -> Path:
    """Copy the parts of a finished record that tables need into the committed results.

    An interrupted comparison of policies keeps the seeds of a policy that have every target. An
    interrupted comparison of ways of compressing keeps all rows, and its table says that it was stopped. An
    interrupted survey of networks keeps those that it examined; a later one is joined to it.

    Raises:
        KeepError: for a run that has not finished, is kept already, or is not what its name says.
    """
    path, kept = accepted(folder, name)
    files.write(path, row_a_line(kept, path.stem))
    return path


def commit_advice(folder: Path, name: str) -> str:
    """The end of a line that says how to keep a run under a name; "" for one that is not accepted."""
    try:
        accepted(folder, name)
    except (KeepError, RecordError):
        return ""
    return f"; commit it: python -m experiments.report keep {shlex.quote(str(folder))} {name}"


def accepted(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The file that `keep` writes for a run, and its content; raises as `keep` does."""
    check_name(name)
    record = RunRecord.read(folder)
    group = group_of(record)
    if group == TUNED and name.partition("-")[0] in ABOUT:
        group = FAMILIES
    partial = group in (FAMILIES, NETWORKS) and record.rows
    if record.content["status"] != "finished" and not partial:
        _shorten(record, group)
    place = place_of(group, name)
    path = place / f"{name}.json"
    belonging.check(record, group, path)
    kept = _kept(record, group, name)
    if path.exists() and group in JOINED:
        before = read_committed(path)
        if all(row in before["rows"] for row in kept["rows"]):
            raise KeepError(f"{name} has every row of this run already")
        kept = JOINED[group](before, kept)
    elif path.exists():
        raise KeepError(f"{name} is kept already: remove {path} first, or give another name")
    belonging.check_new(kept, place)
    return path, kept


def _kept(record: RunRecord, group: str, name: str) -> dict[str, Any]:
    """The parts of a record that the tables of its group need."""
    if group.startswith((SEARCHES, TABLES)):
        return _search(record, name)
    kept = {key: record.content[key] for key in COMPARISON}
    kept["config"] = _without_places(kept["config"])
    if group != COMPRESSED:
        kept["rows"] = record.rows
    if group == FAMILIES and record.content["status"] != "finished":
        kept["stopped"] = True  # the table says so
    return kept


def _shorten(record: RunRecord, group: str) -> None:
    """Reduce an interrupted comparison of policies to the seeds of a policy that have every target.

    Raises:
        KeepError: if there are none, and for any other unfinished run.
    """
    config, ended = record.content["config"], dict[tuple[str, int], set[float]]()
    if group == TUNED:
        for row in record.rows:
            ended.setdefault((row["policy"], row["seed"]), set()).add(row["target"])
    complete = {key for key, targets in ended.items() if targets == set(config["targets"])}
    if not complete:
        raise KeepError(f"{record.folder} is {record.content['status']}: only a finished run is reported")
    record.rows = [row for row in record.rows if (row["policy"], row["seed"]) in complete]
    contenders = {name: config["contenders"][name] for name in config["contenders"] if name in dict(complete)}
    first, last = (f(seed for _, seed in complete) for f in (min, max))
    record.content["config"] = config | {
        "contenders": contenders, "first_seed": first, "seeds": last - first + 1
    }  # fmt: skip


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which paths of this machine are replaced by the names of their files."""
    found = dict(config)
    if found.get("policy"):
        found["policy"] = Path(found["policy"]).name
    for group, key in (("model", "checkpoint"), ("data", "root")):
        if (found.get(group) or {}).get(key):
            found[group] = found[group] | {key: Path(found[group][key]).name}
    return found


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
