"""Committed records: one JSON file each, with its digest."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_env import files
from experiments.recording.record import RecordError


def row_a_line(content: Mapping[str, Any], of: str) -> str:
    """Indented JSON with its digest and sorted keys; each of the ``rows`` takes one line.

    Args:
        content: plain data.
        of: the name of the file, without suffix; see `amc_env.files.seal`.
    """
    content, rows = files.seal(content, of), content.get("rows")
    text = json.dumps({**content, "rows": []} if rows else content, indent=1, sort_keys=True)
    if rows:
        lines = ",\n".join("  " + json.dumps(row, sort_keys=True) for row in rows)
        text = text.replace('"rows": []', f'"rows": [\n{lines}\n ]')
    return text + "\n"


def read_committed(path: Path) -> dict[str, Any]:
    """The content of a file that `row_a_line` wrote.

    Raises:
        RecordError: when it is damaged or missing.
    """
    try:
        return files.read_json(path, path.stem)
    except (OSError, files.DamagedError) as error:
        restored = f"git checkout {shlex.quote(str(path))}"
        raise RecordError(f"{error}; a committed file comes back by `{restored}`") from error
