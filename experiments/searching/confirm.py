"""Chooses a plan: the best candidates of a search are measured again on the selection split."""

from typing import Any

from agents.rules import Rule
from amc_env.compressors import plan_of
from amc_env.env import CompressionEnv
from amc_env.plan import Plan
from experiments.recording import plans
from experiments.recording.record import RunRecord
from experiments.training.plan_sets import by_rule


def confirm(env: CompressionEnv, record: RunRecord, *, limit: int) -> Plan:
    """Measure the ``limit`` best plans on the whole selection split and choose the best by reward.

    The reward of the best of many plans is partly luck on the reward images. A reward without labels also
    chooses without labels.

    Args:
        env: the environment that was searched.
        record: of the search; gets all candidates and the plan.
        limit: number of candidates.
    """
    rows = plans.candidates(record.rows, limit)
    with record.phase("confirm"):
        evaluate = env.task.evaluator("selection")
        measured = [(row, evaluate(plan_of(env.compressor, row["counts"]))) for row in rows]
        row, selection = max(
            measured, key=lambda item: (env.reward(item[1], env.costs(item[0]["counts"])), item[0]["reward"])
        )
        plan = plan_of(env.compressor, row["counts"])
        reference = evaluate(plan_of(env.compressor, by_rule(env.budget, Rule())))
    plan.write(record.folder / plans.PLAN)
    known = {key: row[key] for key in ("episode", "reward", "counts", "macs_share", "params_share")}
    tried: list[dict[str, Any]] = [
        {"episode": r["episode"], "reward": r["reward"], "selection": e.top1} for r, e in measured
    ]
    record.update(
        best=known | {"plan": plan.to_dict(), "selection": selection},
        results={"candidates": tried, "uniform": {"selection": reference}},
    )
    return plan
