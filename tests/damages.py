"""Ways to damage the bytes of a file; each takes them, those of a file of another run, and a generator."""

import json
import random
from collections.abc import Iterator
from typing import Any


def flipped(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def inserted(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]


def left_out(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.randrange(1, 64) :]


def repeated(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] + content[last:]


def zeroed(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    length = min(rng.randrange(1, 512), len(content) - at)
    return content[:at] + bytes(length) + content[at + length :]


def spliced(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(min(len(content), len(twin)))
    return content[:at] + twin[at:]


def of_another(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    return twin


def emptied(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    return b""


def nonsense(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 50_000, b"NaN", b"1e999", b"\xff\xfe{}", b"null", b"[]",
         b'{"format": 1, "format": 2}', b"\x80\x04cos\nsystem\n(S'touch x'\ntR.", rng.randbytes(300)]
    )  # fmt: skip


def lines_moved(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    first, last = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[last] = lines[last], lines[first]
    return b"".join(lines)


def line_lost(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def number_changed(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    """One digit of the text becomes another: a number that could be."""
    places = [at for at, byte in enumerate(content[:20_000]) if chr(byte).isdigit()]
    if not places:
        return flipped(content, twin, rng)
    at = rng.choice(places)
    digit = rng.choice([other for other in b"0123456789" if other != content[at]])
    return content[:at] + bytes([digit]) + content[at + 1 :]


def entry_changed(content: bytes, twin: bytes, rng: random.Random) -> bytes:
    """An entry of JSON becomes another, of its type or of another type, goes, comes, or is swapped."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    for before, text, after in (([], content, []), (lines[:at], lines[at], lines[at + 1 :])):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict) and found:
            _change(found, rng)
            return b"".join([*before, json.dumps(found).encode(), b"\n", *after])
    return number_changed(content, twin, rng)


def _change(found: Any, rng: random.Random) -> None:
    places = list(_places(found))
    inside, key = rng.choice(places)
    old, how = inside[key], rng.randrange(6)
    others: list[Any] = [None, True, [], {}, "1", "", -1, 0, 1.5, 10**30, [[old]], {"_target_": "os.system"}]
    if how == 0 and isinstance(old, int | float) and not isinstance(old, bool):
        inside[key] = rng.choice([old + 1, old * 2, old * 1.01, -old - 1, float(old) + 0.5])
    elif how == 1 and isinstance(old, str):
        inside[key] = old[:-1] + chr(97 + rng.randrange(26)) + "x"
    elif how == 2:
        where, other = rng.choice(places)
        inside[key], where[other] = where[other], old
    elif how == 3:
        del inside[key]
    elif how == 4 and isinstance(inside, dict):
        inside[rng.choice(["_target_", "target", "more", "digest", "plan"])] = rng.choice(others)
    else:
        inside[key] = rng.choice([other for other in others if other != old])


def _places(found: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(found) if isinstance(found, dict) else range(len(found)):
        yield found, key
        if isinstance(found[key], dict | list):
            yield from _places(found[key])


BYTES = (
    flipped, cut, inserted, left_out, repeated, zeroed, spliced, of_another, emptied, nonsense, lines_moved,
    line_lost, number_changed, number_changed, entry_changed, entry_changed, entry_changed,
)  # fmt: skip
