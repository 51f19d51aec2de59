"""What of a record does not depend on the clock."""

from collections.abc import Mapping
from typing import Any

CLOCK = ("run", "seconds", "work", "ms")  # keys that depend on clock, machine, folder or cache,
CLOCK_ENDINGS = ("_seconds", "_ms")  # and what others that do end in


def without_clock(value: Any) -> Any:
    """A record, or a part of it, without what depends on the clock, the machine or the folder.

    Two runs of the same configuration and seed are then equal. The keys in `CLOCK`, and keys that end in one
    of `CLOCK_ENDINGS`, are removed at any depth.
    """
    if isinstance(value, Mapping):
        return {
            key: without_clock(inner)
            for key, inner in value.items()
            if key not in CLOCK and not key.endswith(CLOCK_ENDINGS)
        }
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value
