"""Checks of settings: the message says what was given and what is possible."""

import difflib
import math
from collections.abc import Collection, Iterable

import numpy as np


def one_of(name: str, given: object, possible: Collection[object]) -> None:
    """Raise a `ValueError` unless a setting is one of the possible values."""
    if given not in possible:
        raise ValueError(f"unknown {name} {given!r}; there are {', '.join(map(str, possible))}")


def positive(**settings: float | None) -> None:
    """Raise a `ValueError` unless each setting is None, or finite and above 0."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, it must be above 0 and finite")


def fraction(**settings: float) -> None:
    """Raise a `ValueError` unless each setting is above 0 and at most 1."""
    for name, value in settings.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}, it must be above 0 and at most 1")


def whole_number(least: int = 1, **settings: object) -> None:
    """Raise a `ValueError` unless each setting is None or a whole number from ``least`` on."""
    for name, value in settings.items():
        counts = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (counts and int(value) >= least):  # type: ignore[call-overload]
            raise ValueError(f"{name} is {value!r}, it must be a whole number, at least {least}")


def number_of(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 run", "1,200 runs", "2 passes"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def did_you_mean(asked: str, choices: Iterable[str]) -> str:
    """A question that names similar choices; "" without any."""
    near = difflib.get_close_matches(asked, list(choices), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""


def nearest(asked: str, choices: Iterable[str]) -> str:
    """The end of an error message: similar choices, and all choices."""
    choices = sorted(choices)
    near, listed = did_you_mean(asked, choices), f"choose from {', '.join(choices)}"
    return f"{near} Otherwise {listed}" if near else listed
