"""The folders of committed records, and which of them a run belongs to."""

from pathlib import Path

from experiments.analysis import published
from experiments.cli.signatures import ROOT
from experiments.recording.record import RunRecord

RESULTS = ROOT / "experiments/results"
SEARCHES, REGRET = "searches", "regret"  # folders of it
TUNED, FIDELITY, TABLES, PRETRAINED = "tuned", "fidelity", "tables", "pretrained"
COMPRESSED, PHOTOS, FAMILIES, NETWORKS = "deep_compression", "photos", "families", "networks"
OPTIMA, REPAIRS = "tuned_optima", "repairs"
LATENCY, MILLISECONDS = "latency", "milliseconds"  # tables of `experiments.latency`, and networks by them


class KeepError(ValueError):
    """A run that cannot become a committed record."""


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
    if "searched" in config:
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


def place_of(group: str, name: str) -> Path:
    """Where a group's record of a name lies.

    A comparison of policies lies where a table of ``published.yaml`` looks for it.
    """
    if group != TUNED:
        return RESULTS / group
    rows = (row for table in published.tables().values() for row in table["rows"])
    named = {row["record"]["name"].rpartition("/")[::2] for row in rows if "record" in row}
    return RESULTS / next((folder for folder, last in named if last == name), TUNED)
