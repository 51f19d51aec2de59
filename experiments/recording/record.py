"""The record of a run: configuration, a row an episode, results; tables and plots are made from it."""

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hydra.core.hydra_config import HydraConfig

from amc_env import files

FORMAT = 1
RECORD, ROWS = "record.json", "record.jsonl"
VERSIONS = (
    "torch",
    "torchvision",
    "numpy",
    "gymnasium",
    "stable-baselines3",
    "hydra-core",
    "wandb",
    "onnxruntime",
)
APART = ("output",)  # keys of a configuration that do not change the result
CLOCK = ("run", "seconds", "work")  # keys that depend on the clock, the machine, the folder or the cache,
CLOCK_ENDINGS = ("_seconds", "_ms")  # and what others that do end in


class RecordError(ValueError):
    """A record that cannot be written, read, or gone on with."""


class RunRecord:
    """A run's folder: ``record.jsonl``, one row an episode, and ``record.json``, everything else.

    A row is on the disk when `add` returns, ``record.json`` when `update` does; a reader never sees half of
    it. Everything that depends on the clock, the machine, the folder or the cache stands under keys that
    `without_clock` strips: what is left is the same, byte for byte, for two runs of the same configuration
    and seed.

    | key of ``record.json`` | what |
    |-|-|
    | ``config`` | resolved, without the keys in `APART` |
    | ``seeds``, ``versions``, ``commit`` | what else the result depends on |
    | ``status`` | running, finished, interrupted or failed |
    | ``best``, ``results`` | what `update` was given |
    | ``seconds`` | by phase, see `phase` |
    | ``run`` | command, its job, overrides and choices, folder, machine, start and end |
    """

    def __init__(self, folder: Path, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.folder, self.content, self.rows = folder, content, rows
        self.notes: list[str] = []  # what reading had to repair

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any], *, seeds: Mapping[str, int]) -> Self:
        """Start a record, before any long work.

        Args:
            folder: made where it is missing.
            config: plain data.
            seeds: each by what it draws.

        Raises:
            RecordError: when the folder cannot be written, or already holds a record.
        """
        if (folder / RECORD).exists() or (folder / ROWS).exists():
            raise RecordError(f"{folder} already holds a record: choose another folder with output=FOLDER")
        content = {
            "format": FORMAT,
            "config": {key: value for key, value in config.items() if key not in APART},
            "seeds": dict(seeds),
            "versions": versions(),
            "commit": commit(),
            "status": "running",
            "best": None,
            "results": {},
            "seconds": {},
            "run": {
                "command": sys.argv,
                **_asked(),
                "folder": str(folder),
                "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
                "started": _now(),
            },
        }
        record = cls(folder, content, [])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record.update()
            (folder / ROWS).touch()
        except OSError as error:
            raise RecordError(
                f"{folder} cannot be written ({error}): choose another with output=FOLDER"
            ) from error
        return record

    @classmethod
    def read(cls, folder: Path) -> Self:
        """A record as it is on the disk; a row that a kill cut short is dropped, and `notes` says so.

        Raises:
            RecordError: when there is none, or it is damaged.
        """
        path = folder / RECORD
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise RecordError(f"no record in {folder} ({error})") from error
        except ValueError as error:
            raise RecordError(f"{path} is damaged: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RecordError(f"{path} is not a record of format {FORMAT}")
        record = cls(folder, content, [])
        lines = (folder / ROWS).read_bytes().split(b"\n") if (folder / ROWS).exists() else [b""]
        for number, line in enumerate(lines[:-1], 1):
            try:
                record.rows.append(json.loads(line))
            except ValueError as error:
                raise RecordError(f"{folder / ROWS}, line {number}, is damaged: {error}") from error
        if lines[-1]:
            record.notes.append(f"{folder / ROWS}: the last row was cut short and is dropped")
        return record

    @classmethod
    def resume(cls, folder: Path, config: Mapping[str, Any], *, episodes: int) -> Self:
        """Go on with a record after its first ``episodes`` rows; later ones are dropped and will be played
        again.

        Raises:
            RecordError: when there is none, it is of another configuration, or has fewer rows.
        """
        record = cls.read(folder)
        record.check(config)
        if len(record.rows) < episodes:
            raise RecordError(f"{folder} has {len(record.rows)} rows, cannot go on after {episodes}")
        record.rows = record.rows[:episodes]
        files.write(folder / ROWS, "".join(_line(row) for row in record.rows))
        record.content["status"] = "running"
        if (now := commit()) not in record.content["commit"]:
            record.content["commit"] += f", then {now}"
        record.content["run"].setdefault("resumed", []).append(_now())
        record.update()
        return record

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise `RecordError`, and say what differs, unless the record is of this configuration."""
        wanted = plain({key: value for key, value in config.items() if key not in APART})
        if differences := sorted(_differences(self.content["config"], wanted)):
            raise RecordError(
                f"{self.folder} is of another configuration ({'; '.join(differences)}): "
                "match it or change output"
            )

    def add(self, **row: Any) -> None:
        """Append a row, and have it on the disk.

        Raises:
            RecordError: for a number that is not finite, with its name; the rows before it stay.
        """
        made = plain(row)
        assert isinstance(made, dict)
        line = _line(made)
        with (self.folder / ROWS).open("a") as file:
            file.write(line)
        self.rows.append(made)

    def update(self, **content: Any) -> None:
        """Set keys of ``record.json`` and write it; ``results`` are added to those that are there."""
        results = content.pop("results", {})
        self.content |= plain(content)
        self.content["results"] |= plain(results)
        files.write(
            self.folder / RECORD, json.dumps(self.content, indent=1, sort_keys=True, allow_nan=False) + "\n"
        )

    def finish(self, status: str = "finished") -> None:
        """Write the end of the run."""
        self.content["run"]["ended"] = _now()
        self.update(status=status)

    def __enter__(self) -> Self:
        """The run; leaving it writes how it ended, whatever ended it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds that pass inside to those of a phase, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def without_clock(value: Any) -> Any:
    """A record, or a part of it, without what depends on the clock, the machine or the folder.

    Two runs of the same configuration and seed are equal in what is left. Stripped are, at any depth, the
    keys in `CLOCK` and those that end in one of `CLOCK_ENDINGS`.
    """
    if isinstance(value, Mapping):
        return {
            key: without_clock(inner)
            for key, inner in value.items()
            if key not in CLOCK and not key.endswith(CLOCK_ENDINGS)
        }
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def plain(value: Any, where: str = "") -> Any:
    """Plain data for JSON: dataclasses, tuples, paths and numpy's scalars are turned into what JSON has.

    Raises:
        RecordError: for a number that is not finite, or what JSON has no form for, with its place.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}.{key}".lstrip(".")) for key, inner in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), where)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, torch's tensors
        return plain(value.tolist(), where)
    if isinstance(value, Sequence):
        return [plain(inner, f"{where}[{at}]") for at, inner in enumerate(value)]
    if not isinstance(value, float):
        raise RecordError(f"{where} is a {type(value).__name__}, which a record cannot hold")
    if not math.isfinite(value):
        raise RecordError(f"{where} is {value}: the run stops here, its record up to this point is kept")
    return value


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of the code that runs, with ``-dirty`` where tracked files differ; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def row_a_line(content: Mapping[str, Any]) -> str:
    """JSON, indented, keys sorted, but for ``rows``, which take a line each."""
    rows = content.get("rows")
    text = json.dumps({**content, "rows": []} if rows else content, indent=1, sort_keys=True)
    if rows:
        lines = ",\n".join("  " + json.dumps(row, sort_keys=True) for row in rows)
        text = text.replace('"rows": []', f'"rows": [\n{lines}\n ]')
    return text + "\n"


def _asked() -> dict[str, Any]:
    """The Hydra job that is running, its overrides and the files it chose; empty without Hydra."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    choices = {group: name for group, name in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    return {"job": hydra.job.name, "overrides": list(hydra.overrides.task), "choices": choices}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif old != new:
        yield f"{where} was {old!r}, is {new!r}"
