"""The table that a search ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from experiments.deliver import Row


def show(rows: "Mapping[str, Row]", files: Sequence[Path], console: Console | None = None) -> None:
    """Print one line a network, and the paths of everything that was written."""
    console = console or Console()
    table = Table(caption="latency: median ms a batch, PyTorch / onnxruntime")
    batches = [latency.batch for latency in next(iter(rows.values())).latency_ms["torch"]]
    columns = ["MACs", "", "params", "", "file kB", "selection %", "test %", *(f"ms, batch {n}" for n in batches)]
    table.add_column("network", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    dense = next(iter(rows.values()))
    for name, row in rows.items():
        eager, onnx = row.latency_ms["torch"], row.latency_ms["onnxruntime"]
        table.add_row(
            name,
            f"{row.macs:,}",
            f"{row.macs / dense.macs:.1%}",
            f"{row.params:,}",
            f"{row.params / dense.params:.1%}",
            f"{row.file_bytes / 1e3:.0f}",
            f"{100 * row.selection:.2f}",
            f"{100 * row.test:.2f}",
            *(f"{a.median_ms:.2f} / {b.median_ms:.2f}" for a, b in zip(eager, onnx, strict=True)),
        )
    console.print(table)
    console.print("written:", highlight=False)
    for path in files:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
