"""Opens the record that a command continues, or a new one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amc_env import files
from experiments.recording.record import RECORD, ROWS, RecordError, RunRecord


def ended(
    folder: Path,
    settings: Mapping[str, Any],
    verb: str,
    check: Callable[[RunRecord], object] = lambda done: None,
) -> RunRecord | None:
    """The folder's record if its run has finished and has all its files, and a line that says so; else None.

    Args:
        folder: of the run.
        settings: the configuration, as plain data.
        verb: what another folder would be for, such as "search".
        check: raises for a finished record that is not this run's, before the line is printed.

    Raises:
        RecordError: when the finished record is of another configuration.
    """
    if not (folder / RECORD).exists() or (done := RunRecord.read(folder)).content["status"] != "finished":
        return None
    done.check(settings)
    check(done)
    if done.missing:
        print(f"{folder} was finished, but has no {', '.join(done.missing)} any more: making it again")
        return None
    print(f"{folder} is finished: nothing to do; choose another output=FOLDER to {verb} again")
    return done


def opened(
    folder: Path, settings: Mapping[str, Any], *, seeds: Mapping[str, int], rows: int | None = None
) -> RunRecord:
    """The folder's record, to be continued, or a new one.

    A record without rows is replaced, so that a command can be corrected after a failed start.

    Args:
        folder: of the run.
        settings: the configuration, as plain data.
        seeds: each by what it draws.
        rows: how many of the record's first rows to keep; None for all.

    Raises:
        RecordError: when the folder holds a record of another configuration, or cannot be written.
    """
    if not (folder / RECORD).exists():
        return RunRecord.create(folder, settings, seeds=seeds)
    old = RunRecord.read(folder)
    begun = old.rows or old.content["status"] == "finished" or any(folder.glob("*.state*"))
    try:
        old.check(settings)
    except RecordError:
        if begun:
            raise
        files.write(folder / ROWS, "")  # first, so that a kill in between leaves what can be begun
        (folder / RECORD).unlink()
        return RunRecord.create(folder, settings, seeds=seeds)
    return RunRecord.resume(folder, settings, episodes=len(old.rows) if rows is None else rows)
