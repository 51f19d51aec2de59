"""Checks of the files and folders that a command will read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from amc_env import files
from experiments.cli import limits, suggest
from experiments.cli.checking import ConfigError, at, listed
from experiments.cli.commands import ReportConfig
from experiments.recording.record import RECORD, RunRecord


def exist(cfg: DictConfig) -> None:
    """Files and folders that will be read exist."""
    if at(cfg, "data.name") in limits.OF_FOLDERS and at(cfg, "data.root") is None:
        raise ConfigError(suggest.needed("data.root"))
    for key, path, endings in _asked(cfg):
        if path is not None and not any(Path(f"{path}{ending}").exists() for ending in endings):
            what = " or ".join(f"{path}{ending}" for ending in endings)
            raise ConfigError(f"{key} is {path}, but there is no {what}: give {key}=PATH of one that exists")


def _asked(cfg: DictConfig) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """Each key that names a path to read, the path, and the possible endings of its files."""
    yield "data.root", at(cfg, "data.root"), ("",)
    if at(cfg, "data.name") == "imagefolder":
        yield "data.root", at(cfg, "data.root"), ("/train",)
    for key in ("model.checkpoint", "checkpoint"):
        for path in listed(at(cfg, key)):
            file = path is not None and (Path(path).suffix or Path(path).is_dir())
            yield key, path, ("", *limits.STEM) if file else limits.STEM
    for key in _runs(cfg):
        yield key, cfg.get(key), (f"/{RECORD}",)
    if isinstance(cfg.get("runs"), str):
        yield "runs", cfg.runs, ("",)


def _runs(cfg: DictConfig) -> Sequence[str]:
    """Keys that name the folder of a run; ``keep`` of `experiments.deep_compress` does not."""
    return ("run", "policy", "keep") if OmegaConf.get_type(cfg) is ReportConfig else ("run", "policy")


def undamaged(cfg: DictConfig) -> None:
    """Records and cards that will be read are undamaged."""
    for key in _runs(cfg):
        if cfg.get(key) is not None:
            RunRecord.read(Path(cfg[key]))
    for key in ("model.checkpoint", "checkpoint"):
        for stem in listed(at(cfg, key)):
            if stem is not None and (card := Path(f"{stem}.json")).is_file():
                check_json(key, card, "take it from its source again")
    if isinstance(cfg.get("runs"), str) and next(Path(cfg.runs).rglob(RECORD), None) is None:
        raise ConfigError(f"no run is in {cfg.runs}: give runs=FOLDER, the output of a search or of a sweep")


def check_json(key: str, path: Path, otherwise: str) -> None:
    """Raise a `ConfigError` for a file that cannot be read, or is no JSON; ``otherwise`` says what to do."""
    try:
        files.read_json(path)
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); {otherwise}") from error
    except files.DamagedError as error:
        raise ConfigError(f"{key}: {error}; {otherwise}") from error
