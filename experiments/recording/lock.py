"""One process at a time in a run's folder: two sweeps started twice share their folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.recording.record import RecordError

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder, which is made if it is missing; the lock is released when the process ends.

    Raises:
        RecordError: when another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK).acquire(blocking=False)
    except Timeout as error:
        raise RecordError(
            f"another process is at work in {folder}: wait for its end, or choose another output=FOLDER"
        ) from error
    except OSError as error:
        raise RecordError(
            f"{folder} cannot be written ({error}): choose another with output=FOLDER"
        ) from error
    with held:
        yield
