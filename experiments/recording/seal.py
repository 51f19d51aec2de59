"""Adds digests to old JSON files: ``python -m experiments.recording.seal FILE ...``.

The caller vouches for the files: committed results, cards of tables and checkpoints, plans. A file that has a
digest is left alone.
"""

import argparse
from pathlib import Path

from amc_env import files
from experiments.recording.committed import row_a_line
from experiments.recording.record import RECORD, RecordError

NAMED = ("rows", "results", "n_images")  # keys of files whose names say what they are of


def main() -> None:
    """Seal the named files."""
    parser = argparse.ArgumentParser(prog="python -m experiments.recording.seal", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        print(f"{path}: {seal(path)}")


def seal(path: Path) -> str:
    """Seal one file; returns what was done.

    Raises:
        RecordError: for a file that is damaged, has another digest, or is a run's record, whose rows have one
            each: that is run again.
    """
    try:
        facts = files.parse(files.content(path, files.LONGEST))
    except (OSError, files.DamagedError) as error:
        raise RecordError(f"{path} cannot be sealed: {error}") from error
    if not isinstance(facts, dict) or path.name == RECORD:
        raise RecordError(f"{path} cannot be sealed: it is no object, or the record of a run")
    of = path.stem if facts.keys() & set(NAMED) else ""
    if files.DIGEST not in facts:
        files.write(path, row_a_line(facts, of))
        return "sealed"
    if facts != files.seal(facts, of):
        raise RecordError(f"{path} cannot be sealed: its content is not what its digest says")
    return "has its digest"


if __name__ == "__main__":
    main()
