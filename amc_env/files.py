"""Writes and reads files as a whole.

A reader sees the old content or the new one, never a part of it. Files that later steps rely on hold a
digest: `seal` puts one into JSON, `sealed_bytes` before any other content; `read_json` and `read_sealed`
refuse a file that is not what was written. A digest detects damage and files that were mixed up, not who
wrote them.
"""

import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

DIGEST = "digest"  # the key of JSON that holds the digest of all others
LONGEST = 256 << 20  # bytes of JSON that are read
DEEPEST = 40  # objects and lists within each other
DIGITS = 40  # of a whole number


class DamagedError(ValueError):
    """A file that is not what was written, or is of a kind that is not read."""


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


def remove_partials(folder: Path, name: str) -> None:
    """Delete the temporary files that a killed process has left.

    Args:
        folder: where no other process is writing them.
        name: of the file, or a pattern of names.
    """
    for partial in folder.glob(f".{name}.*.part"):
        partial.unlink(missing_ok=True)


def content(path: Path, longest: int | None = None) -> bytes:
    """The bytes of a regular file.

    Raises:
        DamagedError: for a folder, a device, or a file of more than ``longest`` bytes.
        OSError: for a file that is missing or unreadable.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise DamagedError(f"{path} is not a file")
    if longest is not None and size > longest:
        raise DamagedError(f"{path} has {size:,} bytes, at most {longest:,} are read")
    return path.read_bytes()


def canonical(value: Any) -> bytes:
    """JSON in a canonical form, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def seal(facts: Mapping[str, Any], of: str = "") -> dict[str, Any]:
    """A JSON object with the digest of its content.

    Args:
        facts: plain data with text as keys.
        of: what the file belongs to if only its name says so, such as a table; it enters the digest.
    """
    rest = {key: value for key, value in facts.items() if key != DIGEST}
    return rest | {DIGEST: hashlib.sha256(of.encode() + canonical(rest)).hexdigest()}


def read_json(path: Path, of: str = "") -> dict[str, Any]:
    """The object in a file of `seal`, without its digest.

    Raises:
        DamagedError: for JSON that `parse` refuses, and for a wrong or missing digest.
        OSError: for a file that is missing or unreadable.
    """
    try:
        facts = parse(content(path, LONGEST))
    except DamagedError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict):
        raise DamagedError(f"{path} is damaged: it holds a {type(facts).__name__}, not an object")
    if DIGEST not in facts:
        raise DamagedError(
            f"{path} has no digest, so an earlier version or a person wrote it: where you trust it, give it "
            f"one by `python -m experiments.recording.seal {shlex.quote(str(path))}`"
        )
    if facts[DIGEST] != seal(facts, of)[DIGEST]:
        raise DamagedError(f"{path} is damaged: its content is not what its digest says")
    del facts[DIGEST]
    return facts


def parse(text: bytes) -> Any:
    """The value of JSON text.

    Raises:
        DamagedError: for what is not JSON in UTF-8, repeats a key, is nested deeper than `DEEPEST`, or holds
            a number that is not finite or has more than `DIGITS` digits.
    """
    try:
        found = json.loads(
            text.decode(),
            object_pairs_hook=_object,
            parse_constant=_refused,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError as error:
        raise DamagedError(f"it is nested deeper than {DEEPEST}") from error
    except DamagedError:
        raise
    except ValueError as error:
        raise DamagedError(f"it is not JSON: {error}") from error
    if any(depth > DEEPEST for depth in _depths(found)):
        raise DamagedError(f"it is nested deeper than {DEEPEST}")
    return found


def sealed_bytes(found: bytes) -> bytes:
    """Content with its SHA-256 before it."""
    return hashlib.sha256(found).digest() + found


def read_sealed(path: Path) -> bytes:
    """The content of a file of `sealed_bytes`.

    Raises:
        DamagedError: for a wrong digest.
        OSError: for a file that is missing or unreadable.
    """
    found = content(path)
    if hashlib.sha256(found[32:]).digest() != found[:32]:
        raise DamagedError(f"{path} is damaged: its content is not what its digest says")
    return found[32:]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DamagedError(f"it repeats the key {next(key for key in keys if keys.count(key) > 1)!r}")
    return found


def _refused(word: str) -> NoReturn:
    raise DamagedError(f"it holds the number {word}")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise DamagedError(f"it holds the number {word[:20]}, which is not finite")
    return number


def _whole(word: str) -> int:
    if len(word) > DIGITS:
        raise DamagedError(f"it holds a whole number of {len(word)} digits")
    return int(word)


def _depths(value: Any) -> Iterator[int]:
    """The depth of every object and list, as they are found."""
    left = [(value, 1)]
    while left:
        found, depth = left.pop()
        if isinstance(found, dict | list):
            yield depth
            left += [(inner, depth + 1) for inner in (found.values() if isinstance(found, dict) else found)]
