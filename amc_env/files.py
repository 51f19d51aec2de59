"""Files that are written whole: a reader sees the old content or the new one, never a part of it."""

import os
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Write one file, see `write_all`."""
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes | str]) -> None:
    """Write files under temporary names, flush them to the disk, then rename all of them into place.

    When one cannot be written, as on a full disk, every file keeps its old content.

    Args:
        contents: by path; text is written as UTF-8, missing folders are made.

    Raises:
        OSError: when a file cannot be written.
    """
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partials[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials.values():
            if partial.parent.is_dir():
                partial.unlink(missing_ok=True)
