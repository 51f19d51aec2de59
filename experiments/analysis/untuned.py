"""Policies on photographs, without fine-tuning: tables and a figure from the records of `experiments.photos`.

Agreement is the share of test images with the same class as by the dense network, in percent; KL is the
mean divergence from its predictions, in nats; the drop is in points of top-1. Intervals are of 95 %, by a
bootstrap over seeds and images at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.analysis import figures, markdown, stats
from experiments.analysis.charts import Curve
from experiments.analysis.tuned import NAMES

Measure = Callable[[Mapping[str, Any], int, NDArray[np.bool_]], NDArray[np.float64]]
"""(row, images, which of them the dense network classifies as labelled) -> a number an image"""


@dataclass(frozen=True)
class Cell:
    """The results of one policy at one target: a row a seed.

    Attributes:
        policy: its name.
        target: fraction of the MACs that may be spent.
        rows: of the record.
        dense_missed: indices of the test images that the dense network classifies wrongly.
    """

    policy: str
    target: float
    rows: Sequence[Mapping[str, Any]]
    dense_missed: Sequence[int]

    def values(self, measure: Measure) -> NDArray[np.float64]:
        """``(seeds, images)``."""
        images = len(self.rows[0]["images"]["kl"])
        dense = ~_among(self.dense_missed, images)
        found: NDArray[np.float64] = np.stack([measure(row, images, dense) for row in self.rows])
        return found

    def estimate(self, measure: Measure) -> stats.Estimate:
        """The mean over seeds and images, with its interval."""
        return stats.crossed(self.values(measure))

    def mean(self, key: str) -> float:
        """The mean of a key over rows."""
        return float(np.mean([row[key] for row in self.rows]))


def agreement(row: Mapping[str, Any], images: int, dense: NDArray[np.bool_]) -> NDArray[np.float64]:
    """100 where an image is classified as by the dense network."""
    return np.where(_among(row["images"]["changed"], images), 0.0, 100.0)


def kl(row: Mapping[str, Any], images: int, dense: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Nats."""
    return np.array(row["images"]["kl"], np.float64)


def drop(row: Mapping[str, Any], images: int, dense: NDArray[np.bool_]) -> NDArray[np.float64]:
    """100 where the dense network alone is right, -100 where the small one alone is."""
    return 100.0 * (dense.astype(np.float64) - ~_among(row["images"]["missed"], images))


def cells(records: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """The results of each policy at each target, over all records; the largest target first.

    If a search is in several records, the last one counts.
    """
    rows: dict[tuple[float, str], dict[int, Mapping[str, Any]]] = {}
    missed: Sequence[int] = ()
    for record in records:
        missed = record["results"]["dense"]["missed"]
        for row in record["rows"]:
            rows.setdefault((-row["target"], row["policy"]), {})[row["seed"]] = row
    return [Cell(name, -key, list(rows[key, name].values()), missed) for key, name in sorted(rows)]


def table(records: Iterable[Mapping[str, Any]], resource: str = "macs") -> str:
    """A table a target in Markdown, the policy that agrees most with the dense network first."""
    every, parts = cells(records), []
    for target in dict.fromkeys(cell.target for cell in every):
        chosen = sorted(
            (cell for cell in every if cell.target == target),
            key=lambda cell: -cell.estimate(agreement).value,
        )
        head = ["policy", "seeds", "evaluations", "seconds", "MACs, %", "agreement, %", "KL, nats"]
        head.append("top-1 drop, points")
        lines = [
            [
                f"`{cell.policy}`", str(len(cell.rows)), f"{cell.mean('evaluations'):.0f}",
                f"{cell.mean('search_seconds'):.0f}", f"{100 * cell.mean('macs_share'):.1f}",
                f"{cell.estimate(agreement):.1f}", f"{cell.estimate(kl):.3f}",
                f"{cell.estimate(drop):+.1f}",
            ]
            for cell in chosen
        ]  # fmt: skip
        parts.append(f"**{100 * target:g} % of the {NAMES[resource]}**\n\n{markdown.table(head, lines)}")
    return "\n\n".join(parts)


def plot(records: Iterable[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Draw agreement against the share of the MACs, a line a policy with bands, as SVG and PNG."""
    every, curves = cells(records), []
    for name in sorted({cell.policy for cell in every}, key=lambda name: _order(every, name)):
        found = [(cell, cell.estimate(agreement)) for cell in every if cell.policy == name]
        curves.append(
            Curve(
                name,
                [100 * cell.target for cell, _ in found],
                [one.value for _, one in found],
                [one.low for _, one in found],
                [one.high for _, one in found],
            )
        )
    title = "EfficientNet-Lite0 on unseen photographs: no training, no labels"
    return figures.curves(curves, stem, title, "MACs, %", "agreement with the dense network, %")


def _order(every: Sequence[Cell], name: str) -> float:
    """A sort key: the policy with the highest mean agreement comes first."""
    return -float(np.mean([cell.values(agreement).mean() for cell in every if cell.policy == name]))


def _among(positions: Sequence[int], images: int) -> NDArray[np.bool_]:
    found = np.zeros(images, bool)
    found[list(positions)] = True
    return found
