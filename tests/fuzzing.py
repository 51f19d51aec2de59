"""Reads damaged files: the allowed results, and what must not happen."""

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from damageable import Kind
from damages import BYTES

from experiments.cli.exits import is_ours

HANGS = 5.0  # seconds
RUNS_CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)


@dataclass
class Found:
    """What mutations of one kind of file ended in."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Hung(BaseException):
    """Reading took longer than `HANGS`."""


PLACES = ("folder", "link to another", "link to nothing", "link to itself", "pipe", "missing")


def damage(path: Path, kind: Kind, rng: random.Random) -> str:
    """Put something else in a file's place; what it is."""
    content = path.read_bytes()
    if rng.random() < 0.1:
        how = rng.choice(PLACES)
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "pipe":
            os.mkfifo(path)
        elif how != "missing":
            targets = {"link to another": "twin", "link to nothing": "nothing", "link to itself": path.name}
            path.with_name("twin").write_bytes(kind.twin)
            path.symlink_to(path.with_name(targets[how]))
        return how
    mutation = rng.choice(BYTES)
    path.write_bytes(mutation(content, kind.twin, rng))
    return mutation.__name__


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """The folder of a file as it was, whatever became of it."""
    before = {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    try:
        yield
    finally:
        for each in list(path.parent.iterdir()):
            if each.is_dir() and not each.is_symlink() and each == path:
                each.rmdir()
            elif each == path or (each not in before and not each.is_dir()):
                each.unlink()
        for each, content in before.items():
            if not each.exists() or each.read_bytes() != content:
                each.write_bytes(content)


@contextmanager
def watched() -> Iterator[list[str]]:
    """What would run code, as it is tried; and `Hung` after `HANGS` seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hung

    seen: list[str] = []
    _watchers.append(seen)
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        _watchers.remove(seen)


_watchers: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watchers and event in RUNS_CODE:
        _watchers[-1].append(f"{event} {arguments}")


sys.addaudithook(_audit)


def end_of(kind: Kind, expected: Any, rng: random.Random) -> tuple[str, str]:
    """What reading a damaged file ends in, "refused", "equal", "before" or a fault; and the damage."""
    with restored(kind.path):
        how = damage(kind.path, kind, rng)
        with watched() as seen:
            try:
                found = kind.read()
            except Hung:
                return "hung", how
            except Exception as error:
                end = "refused" if is_ours(error) else f"{type(error).__name__}: {error}"
            else:
                allowed = "before" if found in kind.also else "other content"
                end = "equal" if found == expected else allowed
        return (f"ran {seen}" if seen else end), how


def fuzz(kind: Kind, mutations: int, seed: int = 0) -> Found:
    """Read a file under so many mutations."""
    found, expected = Found(), kind.read()
    for number in range(mutations):
        end, how = end_of(kind, expected, random.Random(f"{seed}-{number}"))
        found.ends[end] += 1
        if end not in ("refused", "equal", "before"):
            found.faults.append(f"{how}, mutation {number}: {end}")
    return found
