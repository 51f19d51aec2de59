"""How well critics transfer to new networks: tables from the record of `experiments.pretrain_agent`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.analysis import markdown, stats
from experiments.analysis.regret import NEAR, cell

COUNTS = (1, 5, 10, 20, 40, 60)


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both tables; one that nothing was measured for is left out."""
    first = any(found for row in rows for found in row["first"].values())
    searched = any(row["curves"] for row in rows)
    parts = ([first_plans(rows)] if first else []) + ([searches(rows)] if searched else [])
    return "\n\n".join(parts)


def first_plans(rows: Sequence[Mapping[str, Any]]) -> str:
    """Regret in points of plans that need no evaluation: a row a policy, with intervals over tables."""
    targets = [t for t in rows[0]["first"] if any(row["first"][t] for row in rows)]
    policies = next(found for row in rows for found in row["first"].values() if found)
    lines = []
    for name in policies:
        each = [[row["first"][t][name] for row in rows if row["first"][t]] for t in targets]
        known = [[f[name] for f in row["first"].values() if f] for row in rows]
        means = [np.mean(found) for found in known if found]
        lines.append([f"`{name}`", *(f"{np.mean(found):.2f}" for found in each), cell(stats.mean(means))])
    head = [f"{100 * float(target):g} % of the MACs" for target in targets]
    return markdown.table(["first plan by", *head, "all"], lines)


def searches(rows: Sequence[Mapping[str, Any]]) -> str:
    """Regret in points of the best plan after a number of evaluations: a row an agent."""
    names = next(list(found) for row in rows for found in row["curves"].values())
    lines = []
    for name in names:
        curves = [[found[name] for found in row["curves"].values()] for row in rows if row["curves"]]
        means = [[float(np.mean([after(c, count) for c in own])) for own in curves] for count in COUNTS]
        median = float(np.median([reached(curve) for own in curves for curve in own]))
        needed = f"{median:.0f}" if np.isfinite(median) else "more"
        lines.append([f"`{name}`", *(cell(stats.mean(mean)) for mean in means), needed])
    return markdown.table(["agent", *map(str, COUNTS), f"median evaluations to {NEAR} point"], lines)


def after(curve: Sequence[Sequence[float]], count: int) -> float:
    """The regret after a number of evaluations; a curve holds the number and regret of each improvement."""
    return [regret for at, regret in curve if at <= count][-1]


def reached(curve: Sequence[Sequence[float]]) -> float:
    """The first evaluation within `NEAR` of the best; infinity without one."""
    return min((at for at, regret in curve if regret <= NEAR + 1e-9), default=float("inf"))
