"""Plans of one budget that differ widely: the rules, random ones, and perturbations of the uniform one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from agents.episode import ACTIONS
from agents.rules import Deep, Rule, Shallow, Uniform
from amc_env.budget import Budget
from amc_env.checks import number_of

BETA = 0.7  # half the width of the relative action scale, in nats
CHANGED = 0.35  # probability that a perturbation changes a group
RULES: dict[str, Callable[..., Rule]] = {"uniform": Uniform, "shallow": Shallow, "deep": Deep}


class PlanSetError(ValueError):
    """Fewer different plans within a budget than asked for."""


@dataclass(frozen=True)
class Drawn:
    """A plan by its counts of kept positions, and its kind."""

    kind: str
    counts: tuple[int, ...]


def plan_set(budget: Budget, count: int, seed: int) -> list[Drawn]:
    """``count`` different plans within a budget, in a fixed order: the rules, then the drawn kinds in turn.

    *random* keeps share * exp(0.7 u) of each group, with u uniform in [-1, 1] and share the keep ratio that
    all remaining groups could have. *wild* doubles that exponent, which gives poor plans as well. *near*
    changes about a third of the groups of the uniform plan.

    Raises:
        PlanSetError: if the draws give fewer different plans.
    """
    groups = len(budget.choices)
    found: dict[tuple[int, ...], str] = {}
    for name, rule in RULES.items():
        found.setdefault(by_rule(budget, rule(None, ACTIONS, seed=0)), name)
    rng = np.random.default_rng(seed)
    draws: dict[str, Callable[[], np.ndarray]] = {
        "random": lambda: rng.uniform(-BETA, BETA, groups),
        "wild": lambda: rng.uniform(-2 * BETA, 2 * BETA, groups),
        "near": lambda: rng.uniform(-BETA, BETA, groups) * (rng.random(groups) < CHANGED),
    }
    kinds = list(draws)
    for attempt in range(20 * count):
        if len(found) >= count:
            break
        kind = kinds[attempt % len(kinds)]
        found.setdefault(scaled(budget, np.exp(draws[kind]())), kind)
    if len(found) < count:
        raise PlanSetError(
            f"{number_of(count, 'plan')} asked for, but the budget has only {len(found)} that were "
            "found: ask for fewer"
        )
    return [Drawn(kind, counts) for counts, kind in found.items()][:count]


def scaled(budget: Budget, factors: np.ndarray) -> tuple[int, ...]:
    """The counts that keep ``factors[g]`` times the remaining share at group g, within the budget."""
    return budget.follow(lambda group, share: float(factors[group]) * share)


def by_rule(budget: Budget, rule: Rule) -> tuple[int, ...]:
    """The counts of a rule's plan, without evaluating them."""
    return budget.follow(partial(rule.ratio, decisions=len(budget.choices), first=budget.share([])))
