"""Checks of settings and names: the message says what was given and what is possible."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any


def within(limits: Mapping[str, Collection[Any]], settings: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a setting that is not within its limits.

    Args:
        limits: of each setting, by name, see `beyond`.
        settings: those that have limits, perhaps among others.
    """
    for name, allowed in limits.items():
        if name in settings and (wrong := beyond(settings[name], allowed)) is not None:
            raise ValueError(f"{name} is {settings[name]!r}{wrong}")


def one_of(name: str, given: object, possible: Collection[object]) -> None:
    """Raise a `ValueError` unless a setting is one of the possible values."""
    if given not in possible:
        raise ValueError(f"{name} is {given!r}{among(str(given), map(str, possible))}")


def beyond(value: Any, allowed: Collection[Any]) -> str | None:
    """The end of a message about a value that is not within its limits; None if it is.

    Args:
        value: of a setting.
        allowed: the choices; or the lowest and the highest number, and perhaps the reason for the highest. If
            both are whole numbers, so must the value be.
    """
    lowest, *others = allowed
    if not isinstance(lowest, Real):
        return None if value in allowed else among(str(value), allowed)
    highest, *reason = others
    if isinstance(lowest, Integral) and isinstance(highest, Integral) and not _is_whole(value):
        return ", it must be a whole number"
    if not value >= lowest:
        return f", it is at least {lowest}"
    return None if value <= highest else ": ".join([f", it is at most {highest}", *reason])


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def among(asked: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: similar names, and all names."""
    known = list(known)
    question = did_you_mean(asked, known)
    return f"{question and f' ({question})'}; there are {', '.join(known)}"


def number_of(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 run", "1,200 runs", "2 passes"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """A question that names similar names; "" without any."""
    near = difflib.get_close_matches(asked, list(known), cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""
