"""The keep ratios of a plan as bars, in text and as an image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amc_env.graph.structure import Graph
from amc_env.plan import Plan

BACKGROUND, GRID, OPEN, KEPT = (255, 255, 255), (225, 225, 225), (205, 213, 222), (31, 105, 163)
HEIGHT, BAR, GAP, MARGIN = 200, 14, 4, 10  # pixels


def text(graph: Graph, plan: Plan, spent: float) -> str:
    """One line for each decision: its layer, a bar, the number of channels that stay; then the cost."""
    names = [graph.consumer(group).name for group in graph.groups]
    lines = []
    for name, group, kept in zip(names, graph.groups, plan.kept, strict=True):
        count = len(group) if kept is None else len(kept)
        bar = ("." if kept is None else "#") * round(20 * count / len(group))
        lines.append(
            f"{name:<{max(map(len, names))}} |{bar:<20}| {count * group.per_atom:>4} / {group.width}"
        )
    return "\n".join([*lines, f"cost {100 * spent:.1f} % of the dense network"])


def picture(keeps: Sequence[float], decided: int) -> NDArray[np.uint8]:
    """``(H, W, 3)`` uint8: a bar for each decision, pale while it is open; grid lines at quarters."""
    width = 2 * MARGIN + len(keeps) * (BAR + GAP) - GAP
    canvas = np.full((HEIGHT + 2 * MARGIN, width, 3), BACKGROUND, dtype=np.uint8)
    bottom = HEIGHT + MARGIN
    for quarter in range(5):
        canvas[bottom - quarter * HEIGHT // 4, MARGIN:-MARGIN] = GRID
    for at, keep in enumerate(keeps):
        left = MARGIN + at * (BAR + GAP)
        canvas[bottom - round(keep * HEIGHT) : bottom, left : left + BAR] = KEPT if at < decided else OPEN
    return canvas
