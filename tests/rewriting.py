"""Changes files by hand and updates their digests."""

import json
from pathlib import Path

from amc_env import files
from experiments.recording import chain
from experiments.recording import record as records
from experiments.recording.record import RunRecord


def change(path: Path, of: str = "", **entries: object) -> None:
    """Set entries of a file of JSON."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(files.seal({**content, **entries}, of)))


def change_record(folder: Path, **entries: object) -> None:
    """Set entries of a run's record; its rows follow."""
    read = RunRecord.read(folder)
    changed = RunRecord(folder, read.content | entries, read.rows)
    changed.update()
    lines = zip(changed.rows, changed.chain[1:], strict=True)
    (folder / records.ROWS).write_text("".join(chain.line(row, digest) for row, digest in lines))


def cut_short(folder: Path, rows: int) -> None:
    """Leave a record as a run does that is killed after so many rows."""
    RunRecord.resume(folder, RunRecord.read(folder).content["config"], episodes=rows)
