"""Compressors: they offer the counts of each decision and turn a count into positions."""

from collections.abc import Sequence
from typing import Protocol

from amc_env.cost import Ints, Prices
from amc_env.graph.structure import Graph
from amc_env.plan import Plan

Errors = Sequence[tuple[float, ...]]


class Compressor(Protocol):
    """The interface of a compressor to the environment.

    Attributes:
        graph: of the dense network.
        choices: for each group the counts that may be kept, ascending. The last is the whole group, but
            shared weights have at most 8 bits: there the dense network is no plan.
        errors: for each of these counts the relative errors of the layers that read the group, added up, see
            `amc_env.repair.sensitivity.errors`; None if unknown.
        losses: likewise the predicted rises of the loss, see `amc_env.repair.sensitivity.losses`.
    """

    graph: Graph
    choices: Sequence[Ints]
    errors: Errors | None
    losses: Errors | None

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The positions, ascending, that are kept if ``count`` of a group are kept."""

    def prices(self, resource: str) -> Prices:
        """The prices of its plans in a resource.

        Raises:
            ValueError: for an unknown resource; the message lists the known ones.
        """


def plan_of(compressor: Compressor, counts: Sequence[int]) -> Plan:
    """The plan that keeps ``counts[g]`` positions of each group g; the compressor chooses which."""
    kept = (compressor.choose(group, int(count)) for group, count in enumerate(counts))
    return Plan(compressor.graph.hash, tuple(kept))
