"""Runs commands in forked processes, kills them at a file operation, and compares what they leave."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clockless import without_clock
from hydra.core.global_hydra import GlobalHydra

from experiments.recording.record import RECORD, RunRecord

WANDB = Path(sys.executable).parent / "wandb"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
APART = ("commit", "versions")  # of a record: the code may be edited while a long test runs
KEPT = ("*.safetensors", "*.packed", "plan.json")  # files that are equal byte for byte


class Operations:
    """Counts what a process is about to do to files below a folder; kills it at one of them."""

    def __init__(self, below: Path, kill_at: int | None) -> None:
        self.below, self.kill_at, self.count = f"{below}/", kill_at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, int) and os.fsdecode(path).startswith(self.below):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def run(words: Sequence[str], where: Path, *, kill_at: int | None = None) -> tuple[int, int]:
    """A command in a fork, typed in a folder; what it prints is in ``log`` beside that.

    Args:
        words: the command's name and its overrides.
        where: the folder, below which operations on files are counted.
        kill_at: the operation before which the process dies; None to let it live.

    Returns:
        The exit status, negative for a signal; and the number of operations, where it lived.
    """
    counted = _beside(where, "count")
    counted.unlink(missing_ok=True)
    status = ended(start(words, where, kill_at=kill_at))
    return status, int(counted.read_text()) if counted.exists() else 0


def start(words: Sequence[str], where: Path, *, kill_at: int | None = None, name: str = "log") -> int:
    """The process of a command; arguments as of `run`, and the name of what it prints."""
    where.mkdir(parents=True, exist_ok=True)
    if (pid := os.fork()) == 0:
        code = 70
        with suppress(BaseException):
            code = _work(words, where, _beside(where, name), _beside(where, "count"), kill_at)
        os._exit(code)
    return pid


def ended(pid: int) -> int:
    """The exit status of a process of `start`, negative for a signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def until(happened: Callable[[], object], seconds: float = 300) -> None:
    """Wait for something."""
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < seconds
        time.sleep(0.005)


def _beside(where: Path, name: str) -> Path:
    return where.with_name(f"{where.name}.{name}")


def _work(words: Sequence[str], where: Path, log: Path, counted: Path, kill_at: int | None) -> int:
    command, *overrides = words
    with log.open("a", buffering=1) as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        sys.stdout = sys.stderr = printed
        os.chdir(where)
        warnings.resetwarnings()  # pytest makes errors of them, and keeps them to itself
        warnings.showwarning = _printed
        sys.argv = [f"experiments.{command}", *overrides]
        GlobalHydra.instance().clear()
        operations = Operations(where, kill_at)
        sys.addaudithook(operations)
        code = 0
        try:
            importlib.import_module(f"experiments.{command}").main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 71
        counted.write_text(str(operations.count))
        return code


def _printed(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def left(folder: Path) -> dict[str, Any]:
    """All that a command leaves below a folder and that does not depend on the clock."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob(RECORD)):
        record = RunRecord.read(path.parent)
        content = {key: value for key, value in record.content.items() if key not in APART}
        content["results"] = _without(content["results"], "seconds", "ms")
        found[str(path.relative_to(folder))] = (
            json.loads(json.dumps(without_clock(content))),
            [_without(without_clock(row), "seconds", "ms", "curve_seconds") for row in record.rows],
        )
    for pattern in KEPT:
        for path in sorted(folder.rglob(pattern)):
            if "wandb" not in path.parts:
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _without(value: Any, *keys: str) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner, *keys) for key, inner in value.items() if key not in keys}
    return value


def history(folder: Path, key: str) -> list[list[float]]:
    """The values of a key in the histories of W&B's offline runs of a folder, the oldest run first."""
    found = []
    runs = (folder / "wandb").glob("offline-run-*")
    for run in sorted(runs, key=lambda run: (run / "logs").stat().st_mtime_ns):  # a name has whole seconds
        read = subprocess.run(
            [WANDB, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=False
        )
        records = [json.loads(line) for line in read.stdout.splitlines()]
        items = [record["history"]["item"] for record in records if record["type"] == "history"]
        found.append([item[key] for item in items if key in item])
    return found
