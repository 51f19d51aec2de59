"""Digests of exported files, in the format of ``sha256sum --check``."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from amc_env import files

SUFFIX = ".sha256"
LONGEST = 2**16  # bytes of such a file


class SumsError(ValueError):
    """An exported file that does not match its digest."""


def write(stem: Path, written: Sequence[Path]) -> Path:
    """Write ``<stem>.sha256`` with a line a file; returns its path."""
    path = stem.with_name(f"{stem.name}{SUFFIX}")
    files.write(path, "".join(f"{_digest(each)}  {each.name}\n" for each in written))
    return path


def check(path: Path, *, trust: bool) -> None:
    """Refuse a file unless it matches the digest beside it.

    Args:
        path: of the file.
        trust: allow a file without a digest; a wrong one is refused all the same.

    Raises:
        SumsError: for a missing or wrong digest, and for unreadable files.
    """
    beside = path.with_suffix(SUFFIX)
    told = _read(beside).get(path.name)
    if told is None:
        if not trust:
            raise SumsError(
                f"{beside} has no digest of {path.name}: copy both from where they were made, or add "
                "trust=true where you trust the file"
            )
        return
    try:
        found = _digest(path)
    except (OSError, files.DamagedError) as error:
        raise SumsError(f"{path} cannot be read: {error}") from error
    if told != found:
        raise SumsError(f"{path} is damaged: its digest is not that in {beside}; copy or export it again")


def _digest(path: Path) -> str:
    return hashlib.sha256(files.content(path)).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Digests by file name; empty without the file."""
    try:
        lines = files.content(path, LONGEST).decode().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SumsError(f"{path} cannot be read ({error}): copy it from where it was made") from error
