"""Searches of one real network compared: a table from a record of `experiments.ablate`, in percent.

What a learner maximises is measured on the reward images, and is what contenders are compared by; what they
would be chosen for is the accuracy of the confirmed plan on the selection split.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.analysis import markdown, stats
from experiments.analysis.regret import OURS, SEED, against, cell

Scores = NDArray[np.float64]  # (seeds, targets)


def scores(record: Mapping[str, Any]) -> dict[str, tuple[Scores, Scores]]:
    """By contender, accuracy of the best plan by reward on the reward images, and on selection."""
    targets, seeds = record["config"]["targets"], record["config"]["seeds"]
    found = {
        name: (np.full((seeds, len(targets)), np.nan), np.full((seeds, len(targets)), np.nan))
        for name in record["config"]["contenders"]
    }
    for row in record["rows"]:
        reward, selection = found[row["contender"]]
        at = row["seed"], targets.index(row["target"])
        reward[at], selection[at] = 100 * row["curve"][-1][1], 100 * row["selection"]
    return found


def table(record: Mapping[str, Any]) -> str:
    """A row a contender, the least accurate first."""
    every, targets = scores(record), record["config"]["targets"]
    head = ["agent", *(f"{100 * target:g} % of the MACs" for target in targets), "all"]
    head += [f"below `{OURS}` by", f"P(`{OURS}` better)", "selection"]
    lines = []
    for name in sorted(every, key=lambda name: float(every[name][0].mean())):
        reward, selection = every[name]
        columns = [*(reward[:, [t]] for t in range(len(targets))), reward]
        cells = [name, *map(_iqm, columns)]
        cells += ["", ""] if name == OURS else against(-reward, -every[OURS][0])
        lines.append([*cells, _iqm(selection)])
    return markdown.table(head, lines)


def _iqm(found: Scores) -> str:
    return cell(stats.estimate(found, stats.iqm, np.random.default_rng(SEED)))
