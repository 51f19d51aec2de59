"""Channel pruning: chooses which input channels of a layer are kept."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env import checks
from amc_env.compressors import Errors
from amc_env.conditions import LatencyError
from amc_env.cost import RESOURCES, Ints, Prices, WidthPrices, WidthTable
from amc_env.graph.structure import Graph, Group, Layer
from amc_env.latency import LatencyTable

ROWS = 256  # of a weight matrix at a time in float64: a whole one may have 10⁸ numbers
WIDE_ENOUGH = 16  # choices that rounding must leave a group
NEEDED = (
    "give protocol.latency=FILE (of a comparison latency=FILE), made with "
    "`python -m experiments.latency table=FILE model=... data=...`"
)
FLOOR = (1e-6, 1.0)  # the lowest and the highest, as in the next line
ROUND_TO = (1, 65_536)


class Channels:
    """Keeps the first channels of each group's order, in rounded numbers.

    Args:
        graph: of the dense network.
        orders: for each group its positions, the most important first; from `magnitude_orders` or
            `amc_env.repair.elimination.orders`.
        round_to: counts are multiples of this; it is halved until it divides the width of a group and leaves
            it 16 choices.
        floor: the smallest fraction of a group that may be kept, in (0, 1]; AMC's released code has 0.2.
        latency: a table of the network's measured times, for the resource "latency".
    """

    def __init__(
        self,
        graph: Graph,
        orders: Sequence[Ints],
        *,
        round_to: int = 8,
        floor: float = 0.2,
        latency: LatencyTable | None = None,
    ) -> None:
        checks.within({"floor": FLOOR, "round_to": ROUND_TO}, {"floor": floor, "round_to": round_to})
        self.graph, self.latency = graph, latency
        self.errors: Errors | None = None
        self.losses: Errors | None = None
        self.orders: Sequence[Ints] = []
        self.choices: Sequence[Ints] = []
        for group, order in zip(graph.groups, orders, strict=True):
            parted, least = parts_first(graph, group, order)
            counts = allowed(group, round_to, floor)
            self.orders.append(parted)
            self.choices.append(counts[counts >= least])

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The first ``count`` positions of a group's order, ascending."""
        return tuple(sorted(self.orders[group][:count].tolist()))

    @cached_property
    def widths(self) -> WidthTable:
        """The network's widths, by counts."""
        return WidthTable(self.graph, self.orders)

    def prices(self, resource: str) -> Prices:
        """The prices of its plans in a resource: a key of `amc_env.cost.RESOURCES`, or "latency".

        Raises:
            LatencyError: without a latency table, or if it lacks counts that may be kept.
        """
        checks.one_of("resource", resource, (*RESOURCES, "latency"))
        if resource == "latency":
            if self.latency is None:
                raise LatencyError(f"the resource latency needs a table: {NEEDED}")
            prices = self.latency.prices()
            prices.check(self.choices)
            return prices
        return WidthPrices(self.widths, RESOURCES[resource](self.graph))


def magnitude_orders(model: nn.Module, graph: Graph) -> list[Ints]:
    """For each group its positions by falling `magnitude`; ties keep their order.

    *Source*: AMC's released code ranks a layer's input channels by the sum of absolute weights that read
    them. Where several layers read a group, each layer's sums are first divided by their mean, then added.
    """
    scores = [magnitude(model, graph, group) for group in graph.groups]
    return [np.argsort(-each, kind="stable").astype(np.int64) for each in scores]


def magnitude(model: nn.Module, graph: Graph, group: Group) -> NDArray[np.float64]:
    """``(len(group),)``, the weight that reads each position, relative to the mean in each reading layer."""
    position = np.full(graph.atoms, -1)
    position[group.atoms] = np.arange(len(group))
    total = np.zeros(len(group))
    for index in group.layers:
        layer = graph.layers[index]
        columns = _columns(layer, model.get_parameter(f"{layer.name}.weight").detach())
        at = position[layer.reads]
        scores = np.bincount(at[at >= 0], weights=columns[at >= 0], minlength=len(group))
        total += scores / max(scores.mean(), np.finfo(float).tiny)
    return total


def parts_first(graph: Graph, group: Group, order: Ints) -> tuple[Ints, int]:
    """An order of a group, and the number of positions that must be kept so that no layer becomes empty.

    Where a layer reads or writes only a part of a group, as one branch of a concatenation does, the best
    position of each such part comes first.
    """
    must: dict[int, None] = {}
    for layer in graph.layers:
        for side in (layer.reads, layer.writes):
            own = np.isin(group.atoms[order], side)
            if own.any() and not own.all() and not any(np.isin(group.atoms[at], side) for at in must):
                must[int(order[own][0])] = None
    front = [at for at in order.tolist() if at in must]
    back = [at for at in order.tolist() if at not in must]
    return np.array(front + back, dtype=np.int64), max(1, len(must))


def _columns(layer: Layer, weight: Tensor) -> NDArray[np.float64]:
    """``(c_in,)``, the sums of absolute weights that read each input channel."""
    if layer.kind == "transposed":  # (in, out / groups, ...) to (groups, out / groups, in / groups, taps)
        blocks = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(3)
    else:  # (out, in / groups, ...): the filters of a channel group read its channels only
        blocks = weight.unflatten(0, (layer.groups, -1)).unsqueeze(-1).flatten(3)
    sums = torch.zeros(blocks.size(0), blocks.size(2), dtype=torch.float64, device=weight.device)
    for part in blocks.split(ROWS, dim=1):
        sums += part.abs().double().sum((1, 3))
    return sums.flatten().cpu().numpy()


def allowed(group: Group, round_to: int, floor: float) -> Ints:
    """The counts that a group may keep, ascending, from 1 to the whole group."""
    step = round_to
    while step > 1 and (
        group.width // step < WIDE_ENOUGH or step % group.per_atom or len(group) * group.per_atom % step
    ):
        step //= 2
    atoms = max(1, step // group.per_atom)
    lowest = -(-int(np.ceil(floor * len(group) - 1e-9)) // atoms) * atoms
    return np.unique(np.append(np.arange(max(atoms, lowest), len(group), atoms), len(group)))
