"""How an action is spent: a compressor offers each decision's counts and turns a count into positions."""

from collections.abc import Sequence
from typing import Protocol

from amc_env.cost import Ints, Prices
from amc_env.graph.structure import Graph

Errors = Sequence[tuple[float, ...]]


class Compressor(Protocol):
    """What the environment asks of a compressor; it does not know which one it drives.

    Attributes:
        graph: of the dense network.
        orders: for each group its positions, from the one removed last to the one removed first.
        choices: for each group the counts that may be kept, ascending; the last is the whole group.
        errors: for each of these counts the relative error of the layers that read the group, see
            `amc_env.repair.sensitivity.errors`; None where it is not known.
    """

    graph: Graph
    orders: Sequence[Ints]
    choices: Sequence[Ints]
    errors: Errors | None

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The positions, ascending, that stay when ``count`` of a group stay."""

    def prices(self, resource: str) -> Prices:
        """What its plans cost in a resource.

        Raises:
            ValueError: for a resource that it does not know; the message lists those that it does.
        """
