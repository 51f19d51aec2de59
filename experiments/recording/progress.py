"""Progress of a search or a training: a live panel on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between lines, where there is no terminal


class Meter:
    """A progress bar with the latest values beside it; a context manager, which restores the terminal.

    Args:
        what: the name of the count, such as "episodes".
        total: final count.
        done: count before a resumed run, which the speed leaves out.
        console: None for stdout.
        clock: seconds.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.done, self.first = what, total, done, done
        self.console, self.clock = console or Console(file=sys.stdout), clock
        self.facts: dict[str, str] = {}
        self._bar: Progress | None = None
        self._below: RenderableType = ""

    def __enter__(self) -> Self:
        self.start = self.last_line = self.clock()
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"), TimeRemainingColumn(compact=True),
            )  # fmt: skip
            self._bar = Progress(
                *columns, console=self.console, get_time=self.clock, speed_estimate_period=60
            )
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, facts="")
            self._live = Live(console=self.console, get_renderable=self._shown, refresh_per_second=4)
            self._live.start()
        return self

    def update(self, done: int | None = None, **facts: str | float | None) -> None:
        """Set the count (default: one more) and the values to show; None removes a value."""
        before, self.done = self.done, self.done + 1 if done is None else done
        for name, value in facts.items():
            self.facts.pop(name, None)
            if value is not None:
                self.facts[name] = value if isinstance(value, str) else f"{value:.4g}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, facts=self._text())
        elif self.clock() - self.last_line >= LINE_SECONDS or before < self.total <= self.done:
            self.last_line = self.clock()
            self._print(f"{self.what} {self.done}/{self.total}  {self._text()}, {self._left()}")

    @property
    def live(self) -> bool:
        """Whether there is a terminal, on which `draw` has an effect."""
        return self.console.is_terminal

    def draw(self, below: RenderableType) -> None:
        """Set the panel below the bar; without a terminal it is not shown."""
        self._below = below

    def _shown(self) -> RenderableType:
        return Group(self._bar or "", self._below)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _text(self) -> str:
        facts = [f"{name.replace('_', ' ')} {value}" for name, value in self.facts.items()]
        return ", ".join([*facts, f"{self._speed():.3g}/s"])

    def _speed(self) -> float:
        """Counts a second, since this process started."""
        return (self.done - self.first) / max(self.clock() - self.start, 1e-9)

    def _left(self) -> str:
        speed = self._speed()
        seconds = round((self.total - self.done) / speed) if speed else 0
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left" if speed else "? left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._live.stop()
