"""The record of a run: configuration, a row an episode, results."""

import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from amc_env import files
from amc_env.checks import number_of
from experiments.recording import chain
from experiments.recording.invocation import hydra_job
from experiments.recording.provenance import commit, versions

THEN = ", then "  # between the commits of a run that was resumed
FORMAT = 1
RECORD, ROWS = "record.json", "record.jsonl"
TOLD = 6  # differences of two configurations in a message
APART = ("output",)  # keys of a configuration that do not change the result
ELSEWHERE = "nothing is changed: copy it from where it is whole, or choose another output=FOLDER"


class RecordError(ValueError):
    """A record that cannot be written, read or continued."""


class RunRecord:
    """A run's folder: ``record.jsonl``, one row an episode, and ``record.json``, everything else.

    A row is in the file when `add` returns and survives a kill of the process; ``record.json`` and rows
    before it are on the disk when `update` returns. Each row has a digest of configuration, seeds and all
    rows up to it; ``record.json`` has its own digest and a lower bound of the number of rows. Reading detects
    damage, loss and files of another run. What depends on clock, machine, folder or cache has keys that
    ``tests/clockless.py`` lists: the rest is equal, byte for byte, in two runs of the same configuration and
    seed.

    | key of ``record.json`` | what |
    |-|-|
    | ``config`` | resolved, without the keys in `APART` |
    | ``seeds``, ``versions``, ``commit`` | further causes of the result |
    | ``status`` | running, finished, interrupted or failed |
    | ``best``, ``results`` | set by `update` |
    | ``seconds`` | by phase, see `phase` |
    | ``run`` | command, its job, overrides and choices, folder, files, machine, start and end |
    """

    def __init__(self, folder: Path, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.folder, self.content, self.rows = folder, content, rows
        start = files.seal({key: content[key] for key in ("config", "seeds")})[files.DIGEST]
        self.chain = [start[:16]]  # digests: of the run, then after each row
        for row in rows:
            self.chain.append(chain.link(self.chain[-1], row))
        self.notes: list[str] = []  # what reading had to repair
        self.over = False  # whether it was finished when it was opened again, and no row has been added

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
        rows = folder / ROWS
        if (folder / RECORD).exists() or (rows.exists() and rows.stat().st_size):
            raise RecordError(f"{folder} already holds a record: choose another folder with output=FOLDER")
        content = {
            "format": FORMAT,
            "config": recorded(config),
            "seeds": dict(seeds),
            "versions": versions(),
            "commit": commit(),
            "status": "running",
            "best": None,
            "results": {},
            "seconds": {},
            "run": {
                "command": sys.argv,
                **hydra_job(),
                "folder": str(folder),
                "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
                "started": _now(),
            },
        }
        record = cls(folder, content, [])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rows.touch()  # first, so that a kill in between leaves no record without it
            record.update()
        except OSError as error:
            raise RecordError(
                f"{folder} cannot be written ({error}): choose another with output=FOLDER"
            ) from error
        return record

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a record from the disk; a row that a kill cut short is dropped, with an entry in `notes`.

        Raises:
            RecordError: when there is none, or it is damaged.
        """
        path = folder / RECORD
        try:
            content = files.read_json(path)
        except OSError as error:
            raise RecordError(f"no record in {folder} ({error})") from error
        except files.DamagedError as error:
            raise RecordError(f"{error}; {ELSEWHERE}") from error
        if content.get("format") != FORMAT:
            raise RecordError(f"{path} is not a record of format {FORMAT}")
        if not all(isinstance(content.get(key), dict) for key in ("config", "seeds", "results", "run")):
            raise RecordError(f"{path} is not a record: it lacks config, seeds, results or run")
        record = cls(folder, content, [])
        record._read_rows()
        return record

    def _read_rows(self) -> None:
        """Fill in the rows from the disk; see `read`."""
        path = self.folder / ROWS
        try:
            self.rows, self.chain, torn = chain.read(path, self.chain[0])
        except files.DamagedError as error:
            raise RecordError(f"{error}; {ELSEWHERE}") from error
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error}); {ELSEWHERE}") from error
        kept = self.content["run"].get("rows", 0)
        ended = self.content["status"] == "finished"
        if len(self.rows) < kept or (ended and (torn or len(self.rows) > kept)):
            raise RecordError(f"{path} holds {number_of(len(self.rows), 'whole row')} of {kept}; {ELSEWHERE}")
        if torn:
            self.notes.append(f"{path}: the last row was cut short and is dropped")

    @classmethod
    def resume(cls, folder: Path, config: Mapping[str, Any], *, episodes: int) -> Self:
        """Continue a record after its first ``episodes`` rows; later rows are dropped and played again.

        Raises:
            RecordError: when there is none, it is of another configuration, or has fewer rows.
        """
        record = cls.read(folder)
        record.check(config)
        if len(record.rows) < episodes:
            raise RecordError(
                f"{folder} has {number_of(len(record.rows), 'row')}, cannot go on after {episodes}"
            )
        record.over = record.content["status"] == "finished" and len(record.rows) == episodes
        del record.rows[episodes:], record.chain[episodes + 1 :]
        record.content["status"] = "running"
        if not record.over:
            record._note_resumed()
        record.update()  # first, so that a kill in between leaves no fewer rows than it tells of
        lines = zip(record.rows, record.chain[1:], strict=True)
        files.write(folder / ROWS, "".join(chain.line(row, digest) for row, digest in lines))
        return record

    def _note_resumed(self) -> None:
        """Add the commit that goes on, and the time."""
        if (now := commit()) not in self.content["commit"].split(THEN):
            self.content["commit"] += f"{THEN}{now}"
        self.content["run"].setdefault("resumed", []).append(_now())

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise a `RecordError` that lists the differences unless the record has this configuration."""
        if differences := sorted(_differences(self.content["config"], recorded(config))):
            more = f"; and {len(differences) - TOLD} more" if len(differences) > TOLD else ""
            raise RecordError(
                f"{self.folder} is of another configuration ({'; '.join(differences[:TOLD])}{more}): "
                "match it or change output"
            )

    def add(self, **row: Any) -> None:
        """Append a row to the file.

        Raises:
            RecordError: for a number that is not finite, with its name; the rows before it stay.
        """
        made = plain(row)
        assert isinstance(made, dict)
        if self.over:
            self.over = False
            self._note_resumed()
            self.update()
        digest = chain.link(self.chain[-1], made)
        with (self.folder / ROWS).open("a") as file:
            file.write(chain.line(made, digest))
        self.rows.append(made)
        self.chain.append(digest)

    def update(self, **content: Any) -> None:
        """Set keys of ``record.json`` and write it; ``results`` are added to those that are there."""
        results = content.pop("results", {})
        self.content |= plain(content)
        self.content["results"] |= plain(results)
        self.sync()
        self.content["run"]["rows"] = len(self.rows)
        text = json.dumps(files.seal(self.content), indent=1, sort_keys=True, allow_nan=False)
        files.write(self.folder / RECORD, text + "\n")

    def wrote(self, *written: Path) -> None:
        """Note files in the folder that belong to the finished run."""
        names = [str(path.relative_to(self.folder)) for path in written]
        self.content["run"]["files"] = list(dict.fromkeys([*self.content["run"].get("files", []), *names]))

    @property
    def missing(self) -> list[str]:
        """The files of `wrote` that are no longer there."""
        return [name for name in self.content["run"].get("files", []) if not (self.folder / name).exists()]

    def sync(self) -> None:
        """Flush all rows to the disk."""
        if self.rows:
            with (self.folder / ROWS).open("a") as file:
                os.fsync(file.fileno())

    def finish(self, status: str = "finished") -> None:
        """Write the end of the run."""
        self.content["run"]["ended"] = _now()
        self.update(status=status)

    def __enter__(self) -> Self:
        """Enter the run; leaving it writes how it ended."""
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
        """Add the seconds inside to those of a phase, even after an exception."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in a record: plain data, without the keys in `APART`."""
    made = plain({key: value for key, value in config.items() if key not in APART})
    assert isinstance(made, dict)
    return made


def plain(value: Any, where: str = "") -> Any:
    """Convert to plain data for JSON, including dataclasses, tuples, paths, and arrays of numpy and torch.

    Raises:
        RecordError: for a number that is not finite, or a type that JSON lacks, with its place.
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif old != new:
        yield f"{where} was {old!r}, is {new!r}"
