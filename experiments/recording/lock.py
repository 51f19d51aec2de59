"""One process at a time in a run's folder: sweeps that are started twice share their folders."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.recording.record import RecordError

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing; the end of the process, however it ends, frees it.

    Raises:
        RecordError: when another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise RecordError(
            f"{folder} cannot be written ({error}): choose another with output=FOLDER"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"another process is at work in {folder}: wait for its end, or choose another output=FOLDER"
            ) from error
        except OSError as error:
            print(f"{folder} is on a file system without locks ({error}): start one process at a time in it")
        yield
