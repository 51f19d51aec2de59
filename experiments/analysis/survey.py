"""A table of the networks that `experiments.survey` cut, from its rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.analysis import markdown

UNKNOWN = re.compile(r"the operation '\w+' is not understood")  # what a refused network is refused for
TOLERANCE = 1e-4  # of the outputs' scale
HEAD = ("library", "networks", "cut right", "exported", "refused", "wrong", "median trace", "longest trace")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a library, then the networks that were refused or are wrong."""
    lines, notes = [], []
    for library in dict.fromkeys(row["network"].partition("/")[0] for row in rows):
        found = [row for row in rows if row["network"].partition("/")[0] == library]
        cut_ones = [row for row in found if "refused" not in row]
        right = [row for row in cut_ones if row["equal"] and row["apart"] < TOLERANCE]
        seconds = sorted(row["trace_seconds"] for row in cut_ones) or [0.0]
        written = sum("onnx" in row for row in cut_ones)
        counts = len(found), len(right), written, len(found) - len(cut_ones), len(cut_ones) - len(right)
        times = seconds[len(seconds) // 2], seconds[-1]
        lines.append([library, *map(str, counts), *(f"{each:.2f} s" for each in times)])
        notes += [row for row in found if row not in right or "onnx" not in row]
    return "\n\n".join([markdown.table(HEAD, lines), *(["\n".join(noted(notes))] if notes else [])])


def noted(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each reason why networks are not cut, or how they are wrong."""
    names: dict[str, list[str]] = {}
    for row in rows:
        why = row.get("refused") or row.get("unwritten")
        if why is None:
            why = f"the cut is {row['apart']:.0e} apart from the mask; costs equal: {row['equal']}"
        found = UNKNOWN.search(why)
        names.setdefault(found[0] if found else why, []).append(f"`{row['network']}`")
    return [f"* {', '.join(found)}: {why}" for why, found in names.items()]
