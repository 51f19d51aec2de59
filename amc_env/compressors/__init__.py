"""How an action is spent: a compressor offers decisions with counts to choose from, and makes a plan."""

from collections.abc import Sequence
from typing import Protocol

from amc_env.cost import Ints
from amc_env.graph.structure import Graph


class Compressor(Protocol):
    """What the environment asks of a compressor; it does not know which one it drives.

    Attributes:
        graph: of the dense network.
        orders: one a group: its positions, from the one that goes last to the one that goes first.
        choices: one a group: the counts that may be kept, ascending.
    """

    graph: Graph
    orders: Sequence[Ints]
    choices: Sequence[Ints]

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The positions, ascending, that stay when ``count`` of a group stay."""
