"""Compares a table's rewards with accuracies after fine-tuning, from rows of `experiments.tuned_optima`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amc_env.checks import number_of
from experiments.analysis import markdown, stats
from experiments.analysis.fidelity import FEWEST, correlations
from experiments.analysis.regret import cell

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows) -> str:
    """A table a target: test accuracy in percent after fine-tuning, of all plans and of each agent's best."""
    parts = []
    for target in sorted({row["target"] for row in rows}, reverse=True):
        chosen = [row for row in rows if row["target"] == target]
        parts += [f"**{100 * target:g} % of the MACs**", summary(chosen), agents(chosen)]
    return "\n\n".join(parts)


def summary(rows: Rows) -> str:
    """How well the reward ranks plans by accuracy after fine-tuning, and the accuracy of its best plan."""
    reward, tuned = np.array([row["reward"] for row in rows]), means(rows)
    if len(rows) < FEWEST:
        return f"too few to compare ranks: {number_of(len(rows), 'plan')}."
    rank, _ = correlations(reward, tuned)
    noise = np.array([np.std(row["test"], ddof=1) for row in rows if len(row["test"]) > 1])
    spread = (
        f", one fine-tuning's deviation {100 * np.sqrt((noise**2).mean()):.2f} points" if noise.size else ""
    )
    return (
        f"{len(rows)} plans, {number_of(len(rows[0]['test']), 'fine-tuning')} each: test accuracy after them "
        f"from {100 * tuned.min():.2f} to {100 * tuned.max():.2f} %{spread}. Spearman of tabular reward and "
        f"fine-tuned accuracy: {rank:.2f}."
    )


def agents(rows: Rows) -> str:
    """The best plan of each agent: its reward, and its accuracy after fine-tuning beside the best."""
    tuned = means(rows)
    every: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        for name in row["best_of"]:
            every.setdefault(name, []).append(at)
    body = []
    for name in sorted(every, key=lambda name: -float(tuned[every[name]].mean())):
        own = np.array(every[name])
        regret = 100 * (tuned.max() - tuned[own])
        shown = cell(stats.mean(regret))
        reward = 100 * np.mean([rows[at]["reward"] for at in own])
        cells = [f"`{name}`", str(len(own)), f"{reward:.2f}", f"{100 * tuned[own].mean():.2f}"]
        body.append([*cells, shown if len(own) > 1 else f"{regret.mean():.2f}"])
    head = [
        "best plan of",
        "plans",
        "reward split, before fine-tuning",
        "test, fine-tuned",
        "below the best fine-tuned plan by",
    ]
    return markdown.table(head, body)


def means(rows: Rows) -> stats.Scores:
    """``(rows,)`` test accuracy in [0, 1], mean over fine-tunings."""
    return np.array([np.mean(row["test"]) for row in rows])
