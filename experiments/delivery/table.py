"""The table that a search ends with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from amc_env.checks import number_of
from experiments.delivery.promise import Promise
from experiments.delivery.timing import Latency
from experiments.recording.networks import spelled_out


@dataclass(frozen=True)
class Row:
    """One network of the final table; accuracies in [0, 1], latencies by runtime and batch.

    ``agreement`` in [0, 1] and ``kl`` in nats compare it with the dense network on the test split.
    ``counts`` are the channels that it keeps in each group.
    ``promise`` is the time by the search's latency table, and the measured one; None without a table.
    ``bits`` are those of the coded weights; None where they are neither limited nor rewarded.
    """

    macs: int
    params: int
    file_bytes: int
    selection: float
    test: float
    agreement: float | None
    kl: float | None
    latency_ms: Mapping[str, list[Latency]]
    counts: Sequence[int]
    promise: Promise | None = None
    bits: int | None = None


@dataclass(frozen=True)
class Gain:
    """The accuracy of the found network minus the uniform policy's, in points, on one split.

    Both had the same repair and the same recipe. ``error`` is the paired standard error over ``images``.
    """

    points: float
    error: float
    images: int
    tuned: bool


def show(rows: Mapping[str, Row], gain: Gain, files: Sequence[Path]) -> None:
    """Print one column a network, the gain of the search, and the paths of all files that were written."""
    console, dense = Console(), next(iter(rows.values()))
    show_whole(_table(rows, gain))
    if dense.promise is not None:
        console.print(
            "promised: by the latency table; measured: median of "
            f"{len(dense.promise.repeats_ms)} repeats in the table's runtime",
            highlight=False,
        )
    console.print(gain_sentence(gain, of_accuracy=_of_accuracy(dense)), highlight=False)
    console.print("ms: median time of a batch of that many images", highlight=False)
    console.print("written:", highlight=False)
    for path in files:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def show_whole(table: Table, folding: int = 0) -> None:
    """Print a table, wider than the terminal rather than with cut or broken cells.

    Args:
        table: whose first column may be folded.
        folding: the most characters by which that column may become narrower.
    """
    console = Console()
    wanted = console.measure(table, options=console.options.update_width(10_000)).maximum - folding
    for column in table.columns[folding > 0 :]:
        column.no_wrap = True
    Console(width=max(console.width, wanted)).print(table)


def _table(rows: Mapping[str, Row], gain: Gain) -> Table:
    """Costs, accuracies and times by row, networks by column."""
    dense = next(iter(rows.values()))
    table = Table("", *map(spelled_out, rows), box=box.SIMPLE_HEAD, pad_edge=False)
    for at, column in enumerate(table.columns):
        column.justify = "right" if at else "left"
    table.add_row("MACs", *(_with_share(row.macs, dense.macs) for row in rows.values()))
    table.add_row("parameters", *(_with_share(row.params, dense.params) for row in rows.values()))
    if dense.bits is not None:
        table.add_row("bits, coded", *(_with_share(row.bits or 0, dense.bits) for row in rows.values()))
    table.add_row("file, kB", *(f"{row.file_bytes / 1e3:.0f}" for row in rows.values()))
    of_accuracy = _of_accuracy(dense)
    for split in ("selection", "test"):
        values = [getattr(row, split) for row in rows.values()]
        shown = (f"{100 * value:.2f}" if of_accuracy else f"{value:.4g}" for value in values)
        table.add_row(f"{split}, %" if of_accuracy else split, *shown)
    if not gain.tuned and of_accuracy:
        table.add_row("agreement, %", *(f"{100 * (row.agreement or 0):.2f}" for row in rows.values()))
        table.add_row("KL, nats", *(f"{row.kl:.3f}" for row in rows.values()))
    for runtime, timed in dense.latency_ms.items():
        for at, latency in enumerate(timed):
            cells = (f"{row.latency_ms[runtime][at].median_ms:.2f}" for row in rows.values())
            table.add_row(f"{runtime}, ms for {latency.batch}", *cells)
    if dense.promise is not None:
        kept = [row.promise for row in rows.values() if row.promise is not None]
        whole = dense.promise
        table.add_row("promised, ms", *(_ms(one.promised_ms, whole.promised_ms) for one in kept))
        table.add_row("measured, ms", *(_ms(one.measured_ms, whole.measured_ms) for one in kept))
    return table


def _of_accuracy(dense: Row) -> bool:
    """Whether the values are accuracies, and not a metric of the user's own."""
    return dense.kl is not None


def gain_sentence(gain: Gain, *, of_accuracy: bool) -> str:
    """One line on the gain of the search over the uniform policy, in points or in the user's metric."""
    when = "after the same fine-tuning" if gain.tuned else "without training"
    points, error = f"{gain.points:+.2f} points", f"{gain.error:.2f}"
    if not of_accuracy:
        points, error = f"{gain.points / 100:+.4g}", f"{gain.error / 100:.2g}"
    return (
        f"the search gained {points} over the uniform policy, {when} "
        f"(standard error {error}, {number_of(gain.images, 'test image')})"
    )


def _ms(value: float, whole: float) -> str:
    return f"{value:.3g}\n{value / whole:.1%}"


def _with_share(value: int, whole: int) -> str:
    return f"{_short(value)}\n{value / whole:.1%}"


def _short(value: int) -> str:
    """A count with three digits and its unit, as 4.09G."""
    rounded = float(f"{value:.3g}")
    unit, size = next((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if rounded >= s or u == "k")
    return f"{rounded / size:.3g}{unit}"
