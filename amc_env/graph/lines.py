"""Finds the line of the user's own code that an operation or an error comes from."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

OURS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")
START = "propagate"  # the function that runs the network; what called it is no line of the network


class Line(NamedTuple):
    """A line of a file."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {linecache.getline(self.file, self.number).strip()}"


def of_call() -> Line | None:
    """The line of the network outside torch and this package that is running; None if there is none."""
    return _first_outside(takewhile(_within, traceback.walk_stack(sys._getframe())))


def of_error(error: BaseException) -> Line | None:
    """The line outside torch and this package that raised an error."""
    return _first_outside(reversed(list(traceback.walk_tb(error.__traceback__))))


def _within(place: tuple[FrameType, int]) -> bool:
    code = place[0].f_code
    return code.co_name != START or not code.co_filename.startswith(OURS[1])


def _first_outside(frames: Iterable[tuple[FrameType, int]]) -> Line | None:
    lines = (Line(frame.f_code.co_filename, number) for frame, number in frames)
    return next((line for line in lines if not line.file.startswith(OURS)), None)
