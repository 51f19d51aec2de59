"""How an episode grows with images, layers and width, beside the bare forward pass."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.benchmarks.ours import Bare, Ours
from experiments.benchmarks.sides import actions
from experiments.benchmarks.subjects import Settings, Subject, images, subject

BATCH = 50  # images in a bare pass: one number, so that points are alike


@dataclass(frozen=True)
class Point:
    """One place on a curve: x, a network of the zoo, and the images that it is evaluated on."""

    x: float
    name: str
    options: Mapping[str, Any]
    reward_images: int


CURVES: dict[str, Sequence[Point]] = {
    "images": [Point(count, "plain20", {}, count) for count in (500, 1000, 2000, 4000)],
    "layers": [Point(depth, "plain", {"depth": depth}, 1000) for depth in (8, 14, 20, 32, 44)],
    "width": [Point(width, "mobilenet_v1", {"width": width}, 1000) for width in (0.25, 0.5, 0.75, 1.0)],
}


def light(settings: Settings) -> Settings:
    """Images and plans of every point."""
    return replace(settings, calibration_images=500, reward_images=1000, plans=2)


def scale(
    settings: Settings,
    curves: Mapping[str, Sequence[Point]] = CURVES,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Seconds of an episode and of the bare pass at every point, all points in turn, and their exponents.

    Returns:
        by curve ``points``, each with ``x`` and the medians ``ours_seconds`` and ``bare_seconds``, and
        ``exponents`` of the two.
    """
    data = images(replace(settings, reward_images=max(p.reward_images for ps in curves.values() for p in ps)))
    stations = [
        (curve, point, _Station(subject(point.name, data, **point.options), point, settings))
        for curve, points in curves.items()
        for point in points
    ]
    for repeat in range(settings.repeats):
        for _, _, station in stations:
            station.round()
        say(f"scaling: round {repeat + 1} of {settings.repeats}")
    found: dict[str, Any] = {}
    for curve in curves:
        points = [
            {
                "x": point.x,
                "ours_seconds": statistics.median(station.ours),
                "bare_seconds": statistics.median(station.bare),
            }
            for name, point, station in stations
            if name == curve
        ]
        xs = [point["x"] for point in points]
        found[curve] = {
            "points": points,
            "exponents": {
                side: exponent(xs, [point[f"{side}_seconds"] for point in points])
                for side in ("ours", "bare")
            },
        }
    return found


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The b of the power law y = a x^b that fits best, by least squares on the logarithms."""
    slope, _ = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope)


class _Station:
    """One point: its environment, its bare network, and the seconds of their episodes so far."""

    def __init__(self, what: Subject, point: Point, settings: Settings) -> None:
        light = replace(settings, reward_images=point.reward_images)
        self._ours = Ours(what, light)
        self._bare = Bare(what, self._ours.env, light, batches=(BATCH,))
        self._plans = actions(light, len(self._ours.env.graph.groups))
        self.ours: list[float] = []
        self.bare: list[float] = []

    def round(self) -> None:
        """Play every plan once."""
        for chosen in self._plans:
            self._ours.forget()
            self.ours.append(self._ours.play(chosen).total)
            self.bare.append(self._bare.seconds(self._ours.env.plan))
