"""Counts of the slow fault tests, kept in ``tests/faults``, and the tables made from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_env import files
from experiments.analysis import markdown
from experiments.analysis.report import filled

ROOT = Path(__file__).parents[1]
RECORDS = Path(__file__).parent / "faults"
PAGE = ROOT / "conf" / "SECURITY.md"
HEADS = {
    "mutations": (
        "file",
        "mutations",
        "refused",
        "equal",
        "an earlier state, or another complete file",
        "wrong",
    ),
    "kills": ("command", "kills", "records", "W&B's history"),
    "full_disk": (
        "command and what is full",
        "bytes",
        "ended with",
        "status in the record",
        "record after a rerun with enough space",
    ),
}


def keep(name: str, row: str, **counts: Any) -> None:
    """Set a row of a record of `HEADS`, and the tables of the page."""
    path = RECORDS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    files.write(path, json.dumps(found | {row: counts}, indent=1) + "\n")
    files.write(PAGE, page())


def page() -> str:
    """The page with the tables of what is kept."""
    return filled(PAGE.read_text(), {name: _table(name) for name in HEADS if _path(name).exists()})


def _path(name: str) -> Path:
    return RECORDS / f"{name}.json"


def _table(name: str) -> str:
    found: Mapping[str, Mapping[str, Any]] = json.loads(_path(name).read_text())
    return markdown.table(HEADS[name], [[row, *map(str, cells.values())] for row, cells in found.items()])
