"""JSON rows, one a line, each with a digest of all rows up to it, so that damage and loss are detected."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_env import files

CHAIN = "chain"  # the key of a row on the disk that holds the digest of all rows up to it


def link(before: str, row: Mapping[str, Any]) -> str:
    """The digest of all rows up to this one, computed from the digest before it."""
    return hashlib.sha256(before.encode() + files.canonical(row)).hexdigest()[:16]


def line(row: Mapping[str, Any], digest: str) -> str:
    """The line of a row in the file."""
    return json.dumps({**row, CHAIN: digest}, sort_keys=True, allow_nan=False) + "\n"


def read(path: Path, start: str) -> tuple[list[dict[str, Any]], list[str], bool]:
    """The whole rows of a file.

    Args:
        path: of the file.
        start: the digest before the first row, of the run that the rows belong to.

    Returns:
        The rows; their digests, the one before the first included; whether there is a last row that a kill
        cut short.

    Raises:
        DamagedError: names the first line whose digest is wrong.
        OSError: for a file that is missing or unreadable.
    """
    *whole, torn = files.content(path, files.LONGEST).split(b"\n")
    rows, digests = list[dict[str, Any]](), [start]
    for number, text in enumerate(whole, 1):
        where = f"{path}, line {number}, is damaged, or of another run"
        try:
            row = files.parse(text)
        except files.DamagedError as error:
            raise files.DamagedError(f"{where}: {error}") from error
        told = row.pop(CHAIN, None) if isinstance(row, dict) else None
        if told is None or told != link(digests[-1], row):
            raise files.DamagedError(f"{where}: it does not follow from what is before it")
        rows.append(row)
        digests.append(told)
    return rows, digests, bool(torn)
