"""Charts as inline SVG, without scripts, in the page's colours, with hover text on every mark."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import NamedTuple

from experiments.analysis.run import Kept

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 44
LETTER = 6.5  # pixels of a tick's letter
NUMBERED = 12  # decisions up to which each has its number below, if the names of their layers do not fit
EVERY = 5  # of more decisions have their number


class Point(NamedTuple):
    """A mark: its position, series and hover text, and whether it is filled."""

    x: float
    y: float
    series: str
    label: str
    solid: bool = True
    run: str = ""


class Curve(NamedTuple):
    """A line and its band; ``low`` and ``high`` are empty without a band."""

    series: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Axes:
    """Maps data to pixels, with a linear or logarithmic x axis, which may be of whole numbers."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    whole: bool = False

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = _share(x, self.x, self.log)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - _share(y, self.y) * (HEIGHT - TOP - BOTTOM), 1),
        )

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """The attribute ``d`` of a line through points."""
        return "M" + "L".join(f"{x:g},{y:g}" for x, y in (self.place(*point) for point in points))


def around(values: Iterable[float]) -> tuple[float, float]:
    """The range of some numbers with a margin; a single number lies in its middle."""
    found = list(values)
    low, high = min(found), max(found)
    same = high - low <= 1e-9 * max(abs(low), abs(high))
    room = (abs(high) * 0.1 or 1.0) if same else 0.06 * (high - low)
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within a range."""
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= raw)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    """Ascending numbers, each with as many decimals as the smallest step between them needs."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(round(math.log10(step), 9)))
    return [(value, f"{value:,.{decimals}f}") for value in values]


def curves(found: Sequence[Curve], title: str, x_label: str, y_label: str) -> str:
    """Lines with bands; x is logarithmic if it spans more than a decade."""
    every = [value for curve in found for value in (*curve.y, *curve.low, *curve.high)]
    xs = [value for curve in found for value in curve.x]
    log = min(xs) > 0 and max(xs) > 10 * min(xs)
    ends = (min(xs), max(xs)) if max(xs) > min(xs) else around(xs)
    axes = Axes(ends, around(every), log, whole=all(x % 1 == 0 for x in xs))
    marks = []
    for curve in found:
        if curve.low:
            edge = [*zip(curve.x, curve.high, strict=True)]
            edge += reversed([*zip(curve.x, curve.low, strict=True)])
            marks.append(f'<path class="band" {_series(curve.series)} d="{axes.path(edge)}Z"/>')
        points = zip(curve.x, curve.y, strict=True)
        last = f"{curve.series}: {curve.y[-1]:.4g} at {curve.x[-1]:g}"
        marks.append(
            f'<path class="line" {_series(curve.series)} d="{axes.path(points)}">{_hover(last)}</path>'
        )
    return _svg(_axes(axes, x_label, y_label) + "".join(marks), title)


def scatter(points: Sequence[Point], title: str, x_label: str, y_label: str) -> str:
    """Points, and their Pareto front, see `tuned_front`."""
    axes = Axes(around(p.x for p in points), around(p.y for p in points))
    best = tuned_front(points)
    stairs = [place for a, b in itertools.pairwise(best) for place in (a, (b[0], a[1]))] + best[-1:]
    marks = [f'<path class="front" d="{axes.path(stairs)}"/>']
    for point in points:
        x, y = axes.place(point.x, point.y)
        kind = "dot" if point.solid else "dot hollow"
        marks.append(
            f'<circle class="{kind}" {_series(point.series)} data-run="{escape(point.run)}" '
            f'tabindex="0" cx="{x:g}" cy="{y:g}" r="5">{_hover(point.label)}</circle>'
        )
    return _svg(_axes(axes, x_label, y_label) + "".join(marks), title)


def tuned_front(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The front of the fine-tuned networks, whose accuracies compare; of all where none was fine-tuned."""
    counted = [point for point in points if point.solid] or points
    return front((point.x, point.y) for point in counted)


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places with none both to the left and above, by rising cost, without duplicates."""
    found = list[tuple[float, float]]()
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def frame(kept: Sequence[Kept]) -> str:
    """The network from left to right, with axes: a frame a decision, as high as its channels.

    The plans of one network share it, as a page has hundreds of them: see `plan`.
    """
    longest = LETTER * max(len(one.layer) for one in kept)
    named, marks, floor = longest * len(kept) <= WIDTH - LEFT - RIGHT, list[str](), HEIGHT - BOTTOM
    for at, (one, (x, width)) in enumerate(zip(kept, _places(kept), strict=True)):
        if named or len(kept) <= NUMBERED or at % EVERY == 0:
            marks.append(_text("tick", x + width / 2, floor + 14, one.layer if named else str(at)))
    axes = Axes((0, len(kept)), (0, _most(kept)))
    below = "layer" if named else "decision, in forward order"
    outlines = _bars("whole", kept, [one.size for one in kept])
    return _axes(axes, below, "channels, or steps of the method", x_ticks=False) + "".join(marks) + outlines


def plan(kept: Sequence[Kept], title: str, frame: str) -> str:
    """The frames of a network, filled to what a plan keeps.

    Args:
        kept: of the plan.
        title: of the picture.
        frame: the page's id of the network's `frame`.
    """
    hovers = [f"{one.layer}: {one.stay} of {one.size} stay ({one.ratio:.0%})" for one in kept]
    return _svg(f'<use href="#{frame}"/>{_bars("stay", kept, [one.stay for one in kept], hovers)}', title)


def _most(kept: Sequence[Kept]) -> int:
    return max(one.size for one in kept)


def _places(kept: Sequence[Kept]) -> list[tuple[float, float]]:
    """The left side and the width of each decision's bar."""
    step = (WIDTH - LEFT - RIGHT) / len(kept)
    return [(LEFT + (at + 0.1) * step, 0.8 * step) for at in range(len(kept))]


def _bars(kind: str, kept: Sequence[Kept], counts: Sequence[int], hovers: Sequence[str] = ()) -> str:
    """A bar for each decision, as high as its count; a page has thousands, so each is short."""
    bars, unit = "", (HEIGHT - TOP - BOTTOM) / _most(kept)
    for (x, width), count, hover in zip_longest(_places(kept), counts, hovers):
        path = f'd="M{x:.0f} {HEIGHT - BOTTOM}v-{unit * count:.0f}h{width:.0f}v{unit * count:.0f}"'
        bars += f'<path tabindex="0" {path}>{_hover(hover)}</path>' if hover else f"<path {path}/>"
    return f'<g class="{kind}">{bars}</g>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle", turned: bool = False) -> str:
    place = f'transform="translate({x:g},{y:g}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" text-anchor="{anchor}" {place}>{escape(text)}</text>'


def _axes(axes: Axes, x_label: str, y_label: str, *, x_ticks: bool = True) -> str:
    floor = HEIGHT - BOTTOM
    lines = []
    for value, text in labelled(ticks(*axes.y)):
        _, y = axes.place(axes.x[0], value)
        lines.append(f'<path class="grid" d="M{LEFT},{y:g}H{WIDTH - RIGHT}"/>')
        lines.append(_text("tick", LEFT - 6, y + 4, text, "end"))
    across = _decades(*axes.x) if axes.log else ticks(*axes.x)
    for value, text in labelled([x for x in across if x % 1 == 0 or not axes.whole]) if x_ticks else []:
        x, _ = axes.place(value, axes.y[0])
        lines.append(_text("tick", x, floor + 16, text))
    lines.append(f'<path class="axis" d="M{LEFT},{TOP}V{floor}H{WIDTH - RIGHT}"/>')
    lines.append(_text("name", (WIDTH + LEFT) / 2, HEIGHT - 6, x_label))
    lines.append(_text("name", 13, (floor + TOP) / 2, y_label, turned=True))
    return "".join(lines)


def _svg(inside: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{inside}</svg>'


def _share(value: float, ends: tuple[float, float], log: bool = False) -> float:
    low, high = ends
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on within a range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = (times * 10.0**power for power in range(first, last + 1) for times in (1, 2, 5))
    return [value for value in every if low <= value <= high]


def _series(name: str) -> str:
    return f'data-series="{escape(name)}"'


def _hover(text: str) -> str:
    return f"<title>{escape(text)}</title>"
