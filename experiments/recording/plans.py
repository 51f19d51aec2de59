"""Plans from the counts in a record, and which of a search's plans are worth a second look."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amc_env.env import CompressionEnv
from amc_env.plan import Plan


def counts(env: CompressionEnv, plan: Plan) -> list[int]:
    """How many positions a plan keeps of each group."""
    return [
        len(group) if kept is None else len(kept)
        for group, kept in zip(env.graph.groups, plan.kept, strict=True)
    ]


def plan_of(env: CompressionEnv, kept: Sequence[int]) -> Plan:
    """The plan that keeps so many positions of each group, chosen by the environment's compressor."""
    plan = Plan.dense(env.graph)
    for group, count in enumerate(kept):
        plan = plan.with_group(group, env.compressor.choose(group, count))
    return plan


def uniform(env: CompressionEnv) -> Plan:
    """The plan of the uniform policy: the share of the budget that is left, at each decision."""
    kept: list[int] = []
    for group in range(len(env.graph.groups)):
        kept.append(min(env.budget.snap(group, env.budget.share(kept)), env.budget.bound(kept)))
    return plan_of(env, kept)


def within(env: CompressionEnv, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows whose plan is within the environment's budget, whatever target they were found for."""
    return [row for row in rows if env.budget.allows(row["counts"])]


def best_reward(rows: Iterable[Mapping[str, Any]]) -> float:
    """The largest reward of a record's rows; minus infinity where there are none."""
    return max((row["reward"] for row in rows), default=-math.inf)


def candidates(rows: Iterable[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The rows of largest reward, of equals the earliest, best first.

    Each distinct plan stands there once, with the row in which it was given the most images.
    """
    best: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for row in rows:
        known = best.setdefault(tuple(row["counts"]), row)
        if row["n_images"] > known["n_images"]:
            best[tuple(row["counts"])] = row
    return sorted(best.values(), key=lambda row: (-row["reward"], row["episode"]))[:limit]
