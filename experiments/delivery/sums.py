"""The digests of exported files, beside them in the form that ``sha256sum --check`` reads."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from amc_env import files

SUFFIX = ".sha256"
LONGEST = 2**16  # bytes of such a file


class SumsError(ValueError):
    """An exported file that is not the one whose digest stands beside it."""


def write(stem: Path, written: Sequence[Path]) -> Path:
    """Write ``<stem>.sha256`` with a line a file; its path."""
    path = stem.with_name(f"{stem.name}{SUFFIX}")
    files.write(path, "".join(f"{_digest(each)}  {each.name}\n" for each in written))
    return path


def check(path: Path, *, trust: bool) -> None:
    """Refuse a file unless its digest stands beside it.

    Args:
        path: of the file.
        trust: read it also where none stands there; another one is refused all the same.

    Raises:
        SumsError: for a missing or other digest, and files that cannot be read.
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
    """Digests by file name; none where there is no such file."""
    try:
        lines = files.content(path, LONGEST).decode().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SumsError(f"{path} cannot be read ({error}): copy it from where it was made") from error
