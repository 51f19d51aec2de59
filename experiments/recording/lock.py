"""Locks for folders in which files are written: a run, the data sets, the committed results."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from amc_env import files
from experiments.recording.record import RecordError

ANOTHER_OUTPUT = "choose another with output=FOLDER"


class BusyError(RecordError):
    """A folder that another process has locked."""


@contextmanager
def alone(
    folder: Path, *, wait: bool = False, otherwise: str = ANOTHER_OUTPUT, name: str = ""
) -> Iterator[None]:
    """Lock a folder, which is made if it is missing; the lock is released when the process ends.

    Temporary files of a killed process are deleted. The thread that holds the lock may take it again. A file
    beside the lock says who holds it.

    Args:
        folder: only this thread may write it.
        wait: for another process to release it.
        otherwise: advice in the message if the folder is locked or not writable.
        name: of the only file that is written there; "" for all files.

    Raises:
        BusyError: when another process holds the lock, which one and since when.
        RecordError: when the folder cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]  # the innermost first
    path = folder.absolute() / (f".{name}.lock" if name else ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, is_singleton=True).acquire(blocking=wait)
    except Timeout as error:
        raise BusyError(
            f"another process is at work in {folder / name}{_holder(path)}: wait for its end, or {otherwise}"
        ) from error
    except OSError as error:
        raise RecordError(f"{folder} cannot be written ({error}): {otherwise}") from error
    with held as lock:
        first = lock.lock_counter == 1
        if first:
            _sign(path, otherwise)
            files.remove_partials(folder, name or "*")
        try:
            yield
        finally:
            if first:
                _clear(path, made)


def _sign(path: Path, otherwise: str) -> None:
    """Write who holds a lock; it is only used in a message, so a partial file does no harm."""
    content = {
        "pid": os.getpid(),
        "machine": platform.node(),
        "command": " ".join(sys.argv),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    try:
        _beside(path).write_text(json.dumps(content) + "\n")
    except OSError as error:
        raise RecordError(f"{path.parent} cannot be written ({error}): {otherwise}") from error


def _clear(path: Path, made: Sequence[Path]) -> None:
    """Remove the file that says who holds the lock, and folders that stayed empty."""
    with suppress(OSError):  # nobody needs either
        _beside(path).unlink(missing_ok=True)
        if made and [*path.parent.iterdir()] == [path]:
            path.unlink()
            for one in made:
                one.rmdir()


def _holder(path: Path) -> str:
    """Who holds a lock, if that can be read."""
    try:
        found = files.parse(files.content(_beside(path), 2**16))
        return f" since {found['since']} (process {found['pid']} on {found['machine']}: {found['command']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _beside(path: Path) -> Path:
    """Where it stands who holds a lock."""
    return path.with_name(f"{path.name}.holder")
