"""Checks of settings: the message says what was given and what is possible."""

import difflib
from collections.abc import Collection, Iterable


def one_of(name: str, given: object, possible: Collection[object]) -> None:
    """Raise a `ValueError` unless a setting is one of the possible values."""
    if given not in possible:
        raise ValueError(f"unknown {name} {given!r}; there are {', '.join(map(str, possible))}")


def positive(**settings: float | None) -> None:
    """Raise a `ValueError` unless each setting is None or above 0."""
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}, it must be above 0")


def did_you_mean(asked: str, choices: Iterable[str]) -> str:
    """A question that names similar choices; "" without any."""
    near = difflib.get_close_matches(asked, list(choices), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""
