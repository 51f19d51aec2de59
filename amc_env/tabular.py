"""The exhaustively evaluated benchmark: environments that look metrics up in a table.

Each table holds the metrics of every plan of one small trained network of five to nine decisions, 2,187 to
32,768 plans. ``python -m experiments.tabulate`` makes them. An episode takes a millisecond or two, and the
best plan within each budget is known, so a search's regret is exact.
"""

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_env import checks, files, zoo
from amc_env.budget import Budget
from amc_env.compressors import Compressor, Errors, plan_of
from amc_env.cost import RESOURCES, Ints, WidthPrices, WidthTable
from amc_env.env import CompressionEnv
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.metrics import Evaluation
from amc_env.plan import Plan

TABLES = Path(__file__).resolve().parent / "tables"
FORMAT = 2
COUNTED, REAL = ("top1", "top5", "agreement"), ("loss", "kl")  # images counted as uint16; nats in float32
MAKE = "make it with `python -m experiments.tabulate table={name}`"


class TableError(ValueError):
    """A table that is missing, damaged or made for another network, or a plan that is not in it."""


class Levels:
    """A compressor that keeps 1/n to n/n of each group, by given orders.

    Args:
        graph: of the dense network, whose groups are multiples of n.
        orders: for each group its positions, the most important first.
        levels: n, the choices of each decision.
        errors: see `amc_env.compressors.Compressor`.
    """

    def __init__(
        self, graph: Graph, orders: Sequence[Ints], levels: int = 8, errors: Errors | None = None
    ) -> None:
        if odd := [len(group) for group in graph.groups if len(group) % levels]:
            raise TableError(f"groups of {odd} channels have no {levels} equal levels; choose other widths")
        self.graph, self.orders, self.levels, self.errors = graph, orders, levels, errors
        self.losses: Errors | None = None
        self.choices: Sequence[Ints] = [
            len(group) // levels * np.arange(1, levels + 1) for group in graph.groups
        ]
        self._chosen: dict[tuple[int, int], tuple[int, ...]] = {}

    def choose(self, group: int, count: int) -> tuple[int, ...]:
        """The first ``count`` positions of the group's order, ascending."""
        if (group, count) not in self._chosen:
            self._chosen[group, count] = tuple(sorted(self.orders[group][:count].tolist()))
        return self._chosen[group, count]

    @cached_property
    def widths(self) -> WidthTable:
        """The network's widths, by counts."""
        return WidthTable(self.graph, self.orders)

    def prices(self, resource: str) -> WidthPrices:
        """The costs of its plans in a resource, a key of `amc_env.cost.RESOURCES`."""
        checks.one_of("resource", resource, RESOURCES)
        return WidthPrices(self.widths, RESOURCES[resource](self.graph))


def plans(compressor: Compressor) -> list[Plan]:
    """Every plan that a compressor can make, the last group's count running fastest."""
    return [plan_of(compressor, counts) for counts in itertools.product(*compressor.choices)]


@dataclass(frozen=True)
class Card:
    """How a table was made.

    The network of ``checkpoint``, whose weights have the digest ``checkpoint_sha256``, was evaluated on
    ``n_images`` reward images. ``order`` says which channels are removed first; the weights of the others
    are repaired from moments. ``sha256`` is the digest of the table's file.
    """

    architecture: str
    options: dict[str, Any]  # of the architecture
    levels: int  # choices of each decision
    order: str  # a name of `amc_env.building.ORDERS`
    classes: int
    shape: tuple[int, int, int]  # C, H, W of the images
    data: str
    held_out: tuple[int, int, int]  # sizes of the calibration, reward and selection splits
    checkpoint: str
    checkpoint_sha256: str
    calibration_images: int
    points: int  # positions sampled in each of them
    seed: int  # draws them
    n_images: int
    graph: str
    commit: str
    sha256: str = ""
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Table:
    """The metrics of every plan; called with a plan, as an evaluator is, it returns that plan's metrics.

    Attributes:
        card: how it was made.
        compressor: makes the plans, from levels and orders.
        columns: ``(levels,) * groups`` each: ``top1``, ``top5``, ``agreement`` in images, ``loss`` and ``kl``
            in nats, ``macs`` and ``params``. Index i of an axis stands for i + 1 levels of that group.
    """

    card: Card
    compressor: Levels
    columns: Mapping[str, NDArray[Any]]

    def __call__(self, plan: Plan) -> Evaluation:
        """The stored metrics of a plan.

        Raises:
            TableError: for a plan that is not one of the table's.
        """
        return self.evaluation(self.index(plan))

    def evaluation(self, index: tuple[int, ...]) -> Evaluation:
        """The metrics at an index of the columns."""
        counted: dict[str, Any] = {
            name: int(self.columns[name][index]) / self.card.n_images for name in COUNTED
        }
        real: dict[str, Any] = {name: float(self.columns[name][index]) for name in REAL}
        return Evaluation(**counted, **real, n_images=self.card.n_images, split="reward")

    def known_best(
        self, target: float, resource: str = "macs", limits: Mapping[str, float] | None = None
    ) -> tuple[tuple[int, ...], Evaluation]:
        """The counts and metrics of the most accurate plan within a budget; ties go to the lowest loss.

        Args:
            target: fraction of the dense cost that may be spent, in (0, 1].
            resource: a key of `amc_env.cost.RESOURCES`.
            limits: fractions of other resources.

        Raises:
            BudgetError: when no plan is within it.
        """
        compressor = self.compressor
        targets = {resource: target, **(limits or {})}
        most = {
            name: limit.most for name, limit in zip(targets, Budget(compressor, targets).limits, strict=True)
        }
        fits = [self.columns[name].ravel() <= highest for name, highest in most.items()]
        affordable = np.flatnonzero(np.all(fits, axis=0))
        worth = self.columns["top1"].ravel()[affordable].astype(np.int64)
        order = np.lexsort((self.columns["loss"].ravel()[affordable], -worth))
        index = tuple(int(i) for i in np.unravel_index(affordable[order[0]], self.columns["top1"].shape))
        return self.counts(index), self.evaluation(index)

    def counts(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The counts of the plan at an index of the columns."""
        return tuple(int(own[at]) for own, at in zip(self.compressor.choices, index, strict=True))

    def index(self, plan: Plan) -> tuple[int, ...]:
        """The index of a plan in the columns; a `TableError` if it is not one of the table's."""
        index, levels, orders = [], self.compressor.levels, self.compressor.orders
        if plan.graph != self.compressor.graph.hash or len(plan.kept) != len(orders):
            raise TableError(f"plan {plan.hash} is of another network than {self.card.checkpoint}")
        for group, kept in enumerate(plan.kept):
            size = len(orders[group])
            count = size if kept is None else len(kept)
            known = count > 0 and count * levels % size == 0
            if not known or (kept is not None and kept != self.compressor.choose(group, count)):
                raise TableError(
                    f"group {group} keeps {kept}, which is no level of {self.card.checkpoint}; "
                    "make plans with the table's own compressor"
                )
            index.append(count * levels // size - 1)
        return tuple(index)


def names(folder: Path = TABLES) -> list[str]:
    """The tables that ship."""
    return sorted(path.stem for path in folder.glob("*.json"))


def costs(compressor: Compressor) -> dict[str, Ints]:
    """MACs and parameters of every plan, in the order of `plans`."""
    counts = np.array(list(itertools.product(*compressor.choices)))
    return {name: compressor.prices(name)(counts) for name in RESOURCES}


def save(name: str, table: Table, folder: Path = TABLES) -> Card:
    """Write ``<name>.npz`` and its card ``<name>.json``; returns the card with the file's hash."""
    levels = table.compressor
    orders = {f"order{i}": order.astype(np.int16) for i, order in enumerate(levels.orders)}
    errors = {"errors": np.array(levels.errors, np.float32)} if levels.errors is not None else {}
    path = folder / f"{name}.npz"
    packed = io.BytesIO()
    np.savez_compressed(packed, **table.columns, **orders, **errors)  # type: ignore[arg-type]
    card = Card(**asdict(table.card) | {"sha256": hashlib.sha256(packed.getvalue()).hexdigest()})
    text = json.dumps(files.seal(asdict(card), name), indent=1, sort_keys=True) + "\n"
    files.write_all({path: packed.getvalue(), folder / f"{name}.json": text})
    return card


def load(name: str, folder: Path = TABLES) -> Table:
    """A table by name; its file is read as data.

    Raises:
        TableError: when it is missing, damaged, or made for a network that has changed since.
    """
    path, make_again = folder / f"{name}.npz", MAKE.format(name=name)
    if name not in names(folder):
        raise TableError(f"no table {name!r}{checks.among(name, names(folder))}; {make_again}")
    card = _card(folder / f"{name}.json", make_again)
    try:
        content = files.content(path)
    except (OSError, files.DamagedError) as error:
        raise TableError(f"{path} cannot be read ({error}); {make_again}") from error
    if (found := hashlib.sha256(content).hexdigest()) != card.sha256:
        raise TableError(f"{path}: sha256 {found[:12]}..., its card has {card.sha256[:12]}...; {make_again}")
    model = zoo.build(card.architecture, classes=card.classes, in_channels=card.shape[0], **card.options)
    graph = trace(model, card.shape)
    if graph.hash != card.graph:
        raise TableError(
            f"{name} was made for the network {card.graph}, {card.architecture} is now {graph.hash}; "
            f"{make_again}"
        )
    try:
        orders, columns, errors = _unpacked(content, len(graph.groups))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise TableError(f"{path} holds no table ({error}); {make_again}") from error
    return Table(card, Levels(graph, orders, card.levels, errors), columns)


class TabularEnv(CompressionEnv):
    """A `CompressionEnv` that looks metrics up in a table; spaces and info are the same.

    Args:
        table: one of `names()`, or a table.
        **settings: those of `CompressionEnv`.

    Raises:
        TableError, BudgetError, ValueError: each says what is possible.
    """

    def __init__(self, table: str | Table, **settings: Any) -> None:
        self.table = load(table) if isinstance(table, str) else table
        super().__init__(self.table.compressor, self.table, **settings)

    @property
    def known_best(self) -> Evaluation:
        """The evaluation of the most accurate plan within this environment's budget."""
        return self.table.known_best(self.target, self.resource, self.limits)[1]


def _unpacked(
    content: bytes, groups: int
) -> tuple[list[Ints], dict[str, NDArray[Any]], list[tuple[float, ...]] | None]:
    """The orders of the groups, the columns, and the errors of the levels if the file has them."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        orders = [stored[f"order{i}"].astype(np.int64) for i in range(groups)]
        columns = {key: stored[key] for key in (*COUNTED, *REAL, "macs", "params")}
        errors = [tuple(each.tolist()) for each in stored["errors"]] if "errors" in stored else None
    return orders, columns, errors


def _card(path: Path, make_again: str) -> Card:
    try:
        content = files.read_json(path, path.stem)
    except (OSError, files.DamagedError) as error:
        raise TableError(f"{path} cannot be read as a table's card ({error}); {make_again}") from error
    known = {entry.name for entry in fields(Card)}
    if content.keys() != known or content["format"] != FORMAT:
        raise TableError(f"{path} is not a table's card of format {FORMAT}; {make_again}")
    return Card(**content | {"shape": tuple(content["shape"]), "held_out": tuple(content["held_out"])})
