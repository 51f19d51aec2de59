"""How near the forward passes of cut networks are to what the processor multiplies at best, and what that
leaves: how many times faster than the released procedure an episode that runs all images can be at all.

The limit is an episode that does nothing but its network's multiplications, at the rate of the fastest matrix
product: what a procedure in float32 that multiplies as the network is written can hope for.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmarks import sides
from experiments.benchmarks.ours import Bare, Ours
from experiments.benchmarks.reference import Reference
from experiments.benchmarks.subjects import Settings, Subject

BATCH = 50  # images in a pass
PRODUCT = (2048, 1024, 1024)  # rows, columns and depth of the matrix product: as large as caches hold well
PRODUCTS = 20  # of which the fastest counts

Row = dict[str, Any]


def light(settings: Settings) -> Settings:
    """Three plans, since the released procedure plays each."""
    return replace(settings, plans=3)


def measure(subject: Subject, settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time the forward passes of random plans' networks.

    Args:
        subject: what is compressed.
        settings: how much of it.
        say: is told of every plan.

    Returns:
        what `summary` says, and ``rows``, one a plan and repeat: ``macs`` of the network on all images,
        seconds of a pass under ``plain`` and of the released procedure's episode under ``reference``,
        and the multiplications a second of a matrix product under ``rate``.
    """
    ours = Ours(subject, settings)
    reference = Reference(subject, ours.env.graph, settings)
    bare = Bare(subject, ours.env, settings, batches=[BATCH])
    rows = []
    for index, chosen in enumerate(sides.actions(settings, len(ours.env.graph.groups))):
        ours.play(chosen)
        plan, counts = ours.env.plan, ours.env.counts
        yardstick = reference.play(counts).total
        macs = int(ours.env.macs(ours.env.budget.widths(counts))) * settings.reward_images
        for repeat in range(settings.repeats):
            taken = {"plain": bare.seconds(plan), "rate": rate()}
            rows.append({"plan": index, "repeat": repeat, "macs": macs, "reference": yardstick} | taken)
        say(f"{subject.name}: plan {index + 1} of {settings.plans}")
    return {"weights": subject.weights, **summary(rows), "rows": rows}


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Of a network's rows: ``seconds`` of a pass and its ``rate`` in multiplications a second, medians, the
    latter beside the largest of a matrix ``product``; and the ``limit``: how many times faster than the
    released procedure an episode at that largest rate would be.
    """
    product = max(row["rate"] for row in rows)
    return {
        "seconds": {"plain": statistics.median(row["plain"] for row in rows)},
        "rate": {
            "product": product,
            "plain": statistics.median(row["macs"] / row["plain"] for row in rows),
        },
        "limit": sides.spread([row["reference"] * product / row["macs"] for row in rows]),
    }


def rate() -> float:
    """Multiplications a second of a float32 matrix product, in as many threads as passes have."""
    rows, columns, depth = PRODUCT
    left, right = torch.ones(rows, depth), torch.ones(depth, columns)
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return rows * columns * depth / min(seconds)
