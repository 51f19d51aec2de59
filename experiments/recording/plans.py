"""Plans from the counts in a record, and the best plans of a search."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amc_env.budget import Budget
from amc_env.compressors import Compressor
from amc_env.cost import RESOURCES
from amc_env.env import CompressionEnv
from amc_env.graph.structure import Graph
from amc_env.plan import Plan, PlanError
from experiments.recording.record import RecordError, RunRecord

PLAN = "plan.json"


def of_run(folder: Path) -> Plan:
    """The confirmed plan of a search; its record and its file must agree.

    Raises:
        RecordError, PlanError: when one is missing or damaged, or they differ, or the search has not ended.
    """
    best, path = RunRecord.read(folder).content["best"] or {}, folder / PLAN
    if "selection" not in best:
        raise RecordError(f"{folder} has no plan yet: let the search end, by the command that began it")
    plan = Plan.from_dict(best["plan"])
    if plan != Plan.read(path):
        raise PlanError(f"{path} is not the plan of the record beside it; copy both from elsewhere")
    return plan


def counts(env: CompressionEnv, plan: Plan) -> list[int]:
    """Count the positions that a plan keeps of each group."""
    return [
        len(group) if kept is None else len(kept)
        for group, kept in zip(env.graph.groups, plan.kept, strict=True)
    ]


def shares(compressor: Compressor, counts: Sequence[int]) -> dict[str, float]:
    """A plan's costs as fractions of the dense network, in (0, 1]: ``macs_share`` and ``params_share``."""
    return {f"{resource}_share": Budget(compressor, {resource: 1.0}).spent(counts) for resource in RESOURCES}


def groups(graph: Graph) -> list[dict[str, str | int]]:
    """For each group in a record: its first consumer, the layer's weights, and the group's size.

    Where channels and bits of a layer are both decided, the name of the latter says so.
    """
    firsts = [graph.consumer(group) for group in graph.groups]
    read = np.concatenate([layer.reads.ravel() for layer in graph.layers])
    of_channels = [bool(np.isin(group.atoms, read).any()) for group in graph.groups]
    words = [" bits" if any(of_channels) and not own else "" for own in of_channels]
    return [
        {
            "layer": layer.name + word,
            "size": len(group),
            "weights": layer.c_in * layer.c_out * layer.taps // layer.groups,
        }
        for layer, group, word in zip(firsts, graph.groups, words, strict=True)
    ]


def best_reward(rows: Iterable[Mapping[str, Any]]) -> float:
    """The largest reward of a record's rows; minus infinity without rows."""
    return max((row["reward"] for row in rows), default=-math.inf)


def candidates(rows: Iterable[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The first row of each of the ``limit`` plans with the largest reward, best first.

    Args:
        rows: of a record.
        limit: how many at most.
    """
    best: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for row in rows:
        best.setdefault(tuple(row["counts"]), row)
    return sorted(best.values(), key=lambda row: (-row["reward"], row["episode"]))[:limit]
