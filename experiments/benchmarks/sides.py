"""Times plans in our environment, in the reference procedure, and in a bare forward pass."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.building import make_env
from amc_env.compressors.surgery import Problem, Solve
from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from amc_env.plan import Plan
from experiments.benchmarks.reference import BenchmarkError, Played, Reference, Settings

SIDES = ("ours", "reference", "bare")
BATCHES = {"cpu": 50, "cuda": 3000}  # images in a bare forward pass

Row = dict[str, Any]


def compare(
    model: nn.Module, data: DataSet, settings: Settings, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time the same random plans on both sides, in turn, in one process.

    Args:
        model: a trained network, in evaluation mode.
        data: that it was trained on.
        settings: numbers of plans, images and points.
        say: receives a line after every round.

    Returns:
        ``results`` and ``rows``, plain data of a record.
    """
    ours = Ours(model, data, settings)
    reference = Reference(model, data, ours.env.graph, settings)
    rng = np.random.default_rng(settings.seed)
    plans = [list(rng.random((len(ours.env.graph.groups), 1), np.float32)) for _ in range(settings.plans)]
    ours.play(plans[0])  # a GPU prepares its kernels at the first episode
    rows = []
    for repeat in range(settings.repeats):
        for index, actions in enumerate(plans):
            rows.append({"repeat": repeat, "plan": index} | play(ours, reference, actions))
        say(f"round {repeat + 1} of {settings.repeats}: rewards within {_apart(rows):.2f} points")
    results = {
        "rewards": {"largest_points": _apart(rows)},
        "median_seconds": {side: medians(rows, side) for side in SIDES},
        "faster": ratio(rows, "reference", "ours"),
        "over_bare": ratio(rows, "ours", "bare"),
    }
    return {"results": results, "rows": rows}


class Ours:
    """Plays actions in the environment and times each phase.

    Args:
        model: a trained network.
        data: its images.
        settings: images, points, target and seed are read.
    """

    def __init__(self, model: nn.Module, data: DataSet, settings: Settings) -> None:
        self.env = make_env(
            model, data, target=settings.target, calibration_images=settings.calibration_images,
            points=settings.points, reward_images=settings.reward_images, order="magnitude",
            repair="moments", device=settings.device, seed=settings.seed,
        )  # fmt: skip
        task = self.env.task
        self.solve = task.solve = Stopwatch(task.solve)
        self._images = settings.reward_images
        self._networks = task.networks(settings.reward_images)
        size = BATCHES[task.device.type]
        self._batches = [
            batch.contiguous(memory_format=torch.channels_last).to(task.device)
            for batch, _ in data.batches("reward", size, settings.reward_images)
        ]

    def play(self, actions: Sequence[NDArray[np.float32]]) -> Played:
        """One episode with a new evaluator, so that no plan is in its memory.

        "Choosing" is the time outside solving, cutting and forward passes. On a GPU each phase has the
        processor's seconds; the forward passes, which wait for the result, have the rest.
        """
        evaluator = self.env.evaluator = self.env.task.evaluator("reward", self._images)
        solved, start = self.solve.seconds, time.perf_counter()
        self.env.reset()
        for action in actions:
            *_, info = self.env.step(action)
        total, solve = time.perf_counter() - start, self.solve.seconds - solved
        cut, forward = evaluator.seconds["cut"] - solve, evaluator.seconds["forward"]
        seconds = {"choose": total - solve - cut - forward, "solve": solve, "cut": cut, "forward": forward}
        return Played(info["top1"], info["plan"].kept, seconds)

    def bare_seconds(self, plan: Plan) -> float:
        """Seconds of one pass of a plan's network over the reward images, without cutting it."""
        with evaluating(self._networks.network(plan)) as network:
            _settle()
            start = time.perf_counter()
            for batch in self._batches:
                network(batch)
            _settle()
            return time.perf_counter() - start


@dataclass(eq=False)
class Stopwatch:
    """A `surgery.Solve` that sums the seconds of another one."""

    inner: Solve
    seconds: float = 0.0

    def __call__(self, problems: Iterable[Problem]) -> list[Tensor]:
        """The solved weights."""
        start = time.perf_counter()
        solved = list(self.inner(problems))
        self.seconds += time.perf_counter() - start
        return solved


def play(ours: Ours, reference: Reference, actions: Sequence[NDArray[np.float32]]) -> Row:
    """Time one plan on both sides and in the bare network.

    Raises:
        BenchmarkError: when the sides keep different channels.
    """
    played = {"ours": ours.play(actions), "reference": reference.play(ours.env.counts)}
    plan = ours.env.plan
    if plan.kept != played["reference"].kept:
        raise BenchmarkError(f"the sides keep different channels of plan {plan.hash}")
    return {
        "hash": plan.hash,
        "top1": {name: side.top1 for name, side in played.items()},
        "difference_points": 100 * (played["ours"].top1 - played["reference"].top1),
        **{f"{name}_seconds": {"episode": side.total} | side.seconds for name, side in played.items()},
        "bare_seconds": {"episode": ours.bare_seconds(plan)},
    }


def medians(rows: Sequence[Mapping[str, Any]], side: str) -> dict[str, float]:
    """The median seconds of each phase of a side."""
    key = f"{side}_seconds"
    return {phase: statistics.median(row[key][phase] for row in rows) for phase in rows[0][key]}


def ratio(rows: Sequence[Mapping[str, Any]], above: str, below: str) -> dict[str, float]:
    """Median, lowest and highest ratio of two sides' seconds an episode, row by row."""
    each = [row[f"{above}_seconds"]["episode"] / row[f"{below}_seconds"]["episode"] for row in rows]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def _apart(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(max(abs(row["difference_points"]) for row in rows))


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
