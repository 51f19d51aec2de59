"""How a command ends: with one message for an error that the user can fix, or the status of a signal."""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hydra.conf import HydraConf
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from experiments.cli.signatures import PACKAGES

INTERRUPTED = 128  # plus the number of the signal: the exit status after a signal
GRACE = 30.0  # seconds that a run has to write its end after its parent has ended
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
KEPT = "what was written before is kept, the same command goes on from there"


class RunError(RuntimeError):
    """A failed run of a sweep: only a message, so that it can be sent from another process."""


class BusyRunError(RunError):
    """A run of a sweep whose folder another process has locked."""


class Ended(KeyboardInterrupt):
    """A signal that ends the command as an interrupt from the keyboard does."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Ended` unless they are handled or ignored already.

    A second signal is ignored, so that it does not interrupt the last writes.
    """
    here = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if here and signal.getsignal(number) is signal.SIG_DFL
    ]

    def end(number: int, frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def with_parent(command: int) -> Iterator[None]:
    """End this process as if by SIGTERM when its parent process is gone.

    Args:
        command: id of the command's own process, which watches nothing.
    """
    if os.getpid() == command:
        yield
        return
    parent, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(GRACE)
                os._exit(INTERRUPTED + signal.SIGTERM)  # no process is left to take the result

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def stop(message: str, status: int = 2) -> None:
    """Say why on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


def message_of(error: BaseException) -> str | None:
    """The message for an error that the user can fix: our own errors, a full disk, missing rights or memory.

    Returns:
        The message; None for a bug.
    """
    if is_ours(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return f"a file could not grow ({error}): free space on the disk or lift the limit; {KEPT}"
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        return f"{error.filename or 'a file'}: {error.strerror}: change its rights, or choose another place"
    words = str(error)
    if isinstance(error, MemoryError) or any(one in words.lower() for one in NO_MEMORY):
        reason = f" ({words.splitlines()[0]})" if words else ""
        return f"out of memory{reason}: take fewer or smaller images, or a machine with more of it; {KEPT}"
    return None


def end_run(error: Exception, hydra_cfg: HydraConf, explain: Callable[[Exception], str]) -> None:
    """Exit with an exception's message if it has one; a sweep continues instead.

    Args:
        error: the exception that ended the run.
        hydra_cfg: of the run.
        explain: makes a message of an error of OmegaConf.

    Raises:
        RunError: in a sweep, which repeats the message at its end; it is also printed now, a bug in full.
    """
    message = explain(error) if isinstance(error, OmegaConfBaseException) else message_of(error)
    if hydra_cfg.mode != RunMode.MULTIRUN:
        if message is not None:
            stop(message)
        return
    if message is None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
    from experiments.recording.lock import BusyError  # here, because it needs what jobs alone import

    if isinstance(error, BusyError):
        raise BusyRunError(message) from None
    print(f"failed: {' '.join(hydra_cfg.overrides.task)}: {message}", file=sys.stderr)
    raise RunError(message) from None


def is_ours(error: BaseException) -> bool:
    """Whether an exception is one of ours, meant for the user, and not a bug."""
    return type(error).__module__.partition(".")[0] in PACKAGES


def end_command(error: BaseException, explain: Callable[[Exception], str], *, started: bool) -> None:
    """Exit with a message and a status if the error is not a bug.

    Args:
        error: raised by Hydra or the job.
        explain: makes a message of an error of Hydra.
        started: whether a job had begun.
    """
    if isinstance(error, HydraException | OmegaConfBaseException):
        stop(explain(error))
    if isinstance(error, ValueError) and not started and not is_ours(error):  # Hydra's, as of model=3
        stop(explain(error))
    if type(error).__module__.partition(".")[0] == "yaml" and not started:
        stop(f"a file of the configuration is no YAML: {error}")
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Ended) else signal.SIGINT
        stop(str(error) or "interrupted", INTERRUPTED + number)
    if isinstance(error, BrokenPipeError):  # the reader has ended, as after ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes into it again
        raise SystemExit(INTERRUPTED + signal.SIGPIPE if started else 0)
    if isinstance(error, OSError) and not started:
        stop(f"the output folder cannot be written ({error}): choose another with output=FOLDER")
    if (message := message_of(error)) is not None:
        stop(message)
