"""Policies before and after the same fine-tuning: a table from the record of `experiments.policies`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents import critic
from agents.pretrained import SHIPPED, Pretrained
from experiments.analysis import markdown, stats
from experiments.analysis.fidelity import correlations

BASELINE = "uniform"
STAGES = ("before", "after")  # fine-tuning
RANKED = 5  # rows, from which on a rank correlation stands below a table
NAMES = {"macs": "MACs", "params": "parameters", "bits": "bits", "latency": "milliseconds"}

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows, resource: str = "macs") -> str:
    """A row a policy in Markdown, for each target; the highest test accuracy after fine-tuning first.

    Accuracies are in percent, means over seeds with 95 % bootstrap intervals. The last column is the
    difference to the fine-tuned uniform policy on the test split, for which the runs of both are resampled. A
    search whose best plan was fine-tuned early as well has a row for each number of evaluations. Below a
    table of `RANKED` rows or more stands how well the accuracy before fine-tuning and the cost that is not
    bounded rank them.
    """
    parts = []
    for target in sorted({row["target"] for row in rows}, reverse=True):
        chosen = [look for row in rows for look in looks(row) if row["target"] == target]
        parts.append(f"**{100 * target:g} % of the {NAMES[resource]}**\n\n{_one_target(chosen, resource)}")
    return "\n\n".join(parts)


def looks(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A search after all evaluations and after the first ones, as far as recorded."""
    return [row, *([{**row, **row["early"]}] if "early" in row else [])]


def summary(rows: Rows) -> str:
    """A row a policy in Markdown with its test accuracy before and after fine-tuning at each target.

    The most accurate ones after fine-tuning, on average over the targets, come first.
    """
    targets = sorted({row["target"] for row in rows}, reverse=True)
    head = ["policy", "runs"]
    head += [f"{100 * target:g} % of the MACs, {stage}" for target in targets for stage in STAGES]
    every: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        every[row["policy"], row["target"]].append(row)
    body = []
    found = {name: [every[name, target] for target in targets] for name in sorted({n for n, _ in every})}
    means = {name: [np.mean(_values(each, "after", "test")) for each in own] for name, own in found.items()}
    for name, own in sorted(found.items(), key=lambda item: -float(np.mean(means[item[0]]))):
        cells = [stats.cell(_values(each, stage, "test")) for each in own for stage in STAGES]
        runs = [str(len(each)) for each in own]
        body.append([f"`{name}`", runs[0] if len({*runs}) == 1 else ", ".join(runs), *cells])
    return markdown.table(head, body)


def older_critics(record: Mapping[str, Any]) -> str:
    """A line on the policies whose critics shipped before those that ship now; empty without any."""
    named, shipped = record["results"].get("critics", {}), critic.read(SHIPPED).digest
    found = [
        name
        for name, settings in record["config"]["contenders"].items()
        if settings["agent"]["_target_"] == f"{Pretrained.__module__}.{Pretrained.__name__}"
        and settings["agent"].get("critic") is None
        and named.get(name, {}).get("sha256") != shipped
    ]
    return "".join(f"\n\n`{name}` has earlier critics than those that ship now." for name in found)


def _one_target(rows: Rows, resource: str) -> str:
    other = "macs" if resource == "params" else "params"
    head = ["policy", "evaluations", "runs"]
    head += [f"{split}, {stage} fine-tuning" for stage in STAGES for split in ("selection", "test")]
    head += [f"{NAMES[other]} kept, %", f"above `{BASELINE}`, fine-tuned, test"]
    every: dict[tuple[str, Any], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        every[row["policy"], row.get("evaluations", "")].append(row)
    tuned = {key: _values(found, "after", "test") for key, found in every.items()}
    kept = {key: np.array([100 * row[f"{other}_share"] for row in found]) for key, found in every.items()}
    base = next((tuned[key] for key in tuned if key[0] == BASELINE), None)
    body = []
    for key in sorted(every, key=lambda key: -float(tuned[key].mean())):
        cells = [f"`{key[0]}`", str(key[1]), str(len(tuned[key]))]
        cells += [
            stats.cell(_values(every[key], stage, split))
            for stage in STAGES
            for split in ("selection", "test")
        ]
        above = "" if base is None or key[0] == BASELINE else _above(tuned[key], base)
        body.append([*cells, stats.cell(kept[key], ".1f"), above])
    untuned = {key: _values(found, "before", "test") for key, found in every.items()}
    return markdown.table(head, body) + _ranks(
        tuned, {"accuracy before fine-tuning": untuned, NAMES[other]: kept}
    )


def _above(scores: stats.Scores, base: stats.Scores) -> str:
    """The difference of two means; with its interval where either has several runs."""
    found = stats.above(scores, base)
    return f"{found.value:+.2f}" if len(scores) == len(base) == 1 else f"{found:+.2f}"


def _ranks(tuned: Mapping[Any, stats.Scores], known: Mapping[str, Mapping[Any, stats.Scores]]) -> str:
    """A line with the rank correlation of each number known before fine-tuning with the accuracy after it."""
    if len(tuned) < RANKED:
        return ""

    def means(of: Mapping[Any, stats.Scores]) -> stats.Scores:
        return np.array([of[key].mean() for key in tuned])

    found = [f"{name} {correlations(means(of), means(tuned))[0]:.2f}" for name, of in known.items()]
    over = f"Spearman's correlation with the test accuracy after fine-tuning over these {len(tuned)} rows"
    return f"\n\n{over}: {', '.join(found)}."


def _values(rows: Rows, stage: str, split: str) -> stats.Scores:
    """``(runs,)`` accuracies in percent."""
    return np.array([100 * row[stage][split] for row in rows], np.float64)
