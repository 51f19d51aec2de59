"""The panel that a terminal shows below the progress bar of a search."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

MARKS = "▁▂▃▄▅▆▇█"
WIDE = 60  # characters of a sparkline at most
BAR = 10  # characters of a bar that keeps all


def search(best: Sequence[float], kept: Sequence[tuple[str, float]], budget: str) -> RenderableType:
    """The best reward so far, the last plan by layer, and the budget.

    Args:
        best: best reward so far, by episode; at least one.
        kept: the layer and the fraction in [0, 1] that stays, by decision.
        budget: in words.
    """
    table = Table.grid(padding=(0, 1))
    line = Text(sparkline(best), style="green").append(f"  {best[0]:.4g} to {best[-1]:.4g}", style="default")
    table.add_row("best reward", line)
    table.add_row("budget", budget)
    bars = Columns([f"{name} {bar(share)} {share:4.0%}" for name, share in kept], expand=True)
    return Panel(
        Group(table, bars), title="last plan, by the layer that reads the channels", title_align="left"
    )


def sparkline(values: Sequence[float]) -> str:
    """A line of blocks, the lowest value a thin line and the highest full; many values are thinned."""
    step = max(1, -(-len(values) // (WIDE - 1)))
    shown = [*values[:-1:step], values[-1]]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(MARKS[round((len(MARKS) - 1) * (value - low) / span)] for value in shown)


def bar(share: float, width: int = BAR) -> str:
    """A bar for a fraction in [0, 1], the rest dotted."""
    full = round(width * share)
    return "█" * full + "·" * (width - full)
