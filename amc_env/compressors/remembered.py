"""A cache of a limited size for what the networks of plans are made of."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")

BYTES = 2**28  # that the values of one cache take at most


class Remembered(Generic[Value]):
    """A cache that drops its oldest values beyond `BYTES`.

    Args:
        least: number of values that stay however large they are.

    Attributes:
        nbytes: of the values in it.
    """

    def __init__(self, *, least: int = 0) -> None:
        self._known: dict[Hashable, tuple[Value, int]] = {}
        self._least, self.nbytes = least, 0

    def get(self, key: Hashable) -> Value | None:
        """The value of a key; None if it is unknown or was dropped."""
        found = self._known.get(key)
        return None if found is None else found[0]

    def add(self, key: Hashable, value: Value, nbytes: int) -> Value:
        """Add the value of an unknown key; returns it."""
        self._known[key] = value, nbytes
        self.nbytes += nbytes
        while self.nbytes > BYTES and len(self._known) > self._least:
            self.nbytes -= self._known.pop(next(iter(self._known)))[1]
        return value
