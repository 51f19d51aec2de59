"""Compares repairs by the KL divergence from the dense network, before any fine-tuning."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from experiments.analysis import markdown

ORDER = "elimination"
COMPARED = ("none", "moments", "sequential")
HEAD = (
    "network", "target", "plans", *(f"KL, {repair}" for repair in COMPARED), "sequential / moments, median",
    "largest", "agreement, moments", "sequential",
)  # fmt: skip


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a record: medians over its plans, and the largest ratio between the two repairs."""
    return markdown.table(HEAD, [line(record["config"], record["rows"]) for record in records.values()])


def measured(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The records in which every plan was measured under all `COMPARED`."""
    wanted = {f"{ORDER}, {repair}" for repair in COMPARED}
    found = sorted(records.items())
    return {n: r for n, r in found if all(wanted <= row["proxies"].keys() for row in r["rows"])}


def line(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells of one network."""

    def values(repair: str, metric: str) -> list[float]:
        return [row["proxies"][f"{ORDER}, {repair}"][metric] for row in rows]

    found = ratios(rows)
    kls = [f"{median(values(repair, 'kl')):.3f}" for repair in COMPARED]
    agreements = [f"{median(values(repair, 'agreement')):.1%}" for repair in COMPARED[1:]]
    name = f"`{config['model']['name']}`, {config['data']['name']}"
    target = f"{100 * config['protocol']['target']:g} % of the {config['protocol']['resource']}"
    return [name, target, str(len(rows)), *kls, f"{median(found):.2f}", f"{max(found):.2f}", *agreements]


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """For each plan, the KL divergence after sequential repair divided by the one after repair by moments."""
    pairs = [[row["proxies"][f"{ORDER}, {repair}"]["kl"] for repair in COMPARED[1:]] for row in rows]
    return [sequential / moments for moments, sequential in pairs]
