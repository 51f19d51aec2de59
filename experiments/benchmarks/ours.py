"""An episode of `CompressionEnv` by phase, and the forward pass that it cannot do without."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc_env.building import make_env
from amc_env.compressors.surgery import Solve, Task
from amc_env.env import CompressionEnv
from amc_env.execution import evaluating
from amc_env.plan import Plan
from experiments.benchmarks.reference import Played
from experiments.benchmarks.subjects import Settings, Subject, channels_last

BATCHES = {"cpu": (25, 50, 100), "cuda": (500, 1500, 3000)}  # images in a bare forward pass


class Ours:
    """Plays actions in the environment, and keeps the seconds of each phase apart.

    Args:
        subject: whose network is compressed.
        settings: images, points, target and seed are read.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self._images = settings.reward_images
        self.env = make_env(
            subject.model,
            subject.data,
            target=settings.target,
            calibration_images=settings.calibration_images,
            points=settings.points,
            reward_images=settings.reward_images,
            order="magnitude",
            device=settings.device,
            seed=settings.seed,
        )
        self.solve = Stopwatch(self.env.task.solve)
        self.env.task.solve = self.solve
        self.forget()

    def forget(self) -> None:
        """A new evaluator: no plan is answered, and no layer solved, from memory."""
        self.judge = self.env.task.evaluator("reward", self._images)
        self.env.evaluator = self.judge

    def play(self, actions: Sequence[NDArray[np.float32]]) -> Played:
        """One episode; what is neither solving, cutting nor forward passes is under "choose".

        On a GPU each phase has the seconds of the processor, which it asks, and waits for it where it reads
        what was found: the forward passes have the rest.
        """
        before = self.clock()
        start = time.perf_counter()
        self.env.reset()
        for action in actions:
            *_, info = self.env.step(action)
        total = time.perf_counter() - start
        seconds = {phase: after - before[phase] for phase, after in self.clock().items()}
        return Played(info["top1"], info["plan"].kept, {"choose": total - sum(seconds.values())} | seconds)

    def clock(self) -> dict[str, float]:
        """Running seconds of solving, of the rest of the surgery, and of forward passes.

        Only differences within the life of one evaluator mean something.
        """
        taken = self.judge.seconds
        return {
            "solve": self.solve.seconds,
            "cut": taken["cut"] - self.solve.seconds,
            "forward": taken["forward"],
        }


class Stopwatch:
    """A `surgery.Solve` that adds up what another one takes."""

    def __init__(self, solve: Solve) -> None:
        self._solve, self.seconds = solve, 0.0

    def __call__(self, tasks: Iterable[Task]) -> list[Tensor]:
        """What it gives."""
        asked = list(tasks)
        start = time.perf_counter()
        solved = list(self._solve(asked))
        self.seconds += time.perf_counter() - start
        return solved


class Bare:
    """Forward passes of a plan's network as the environment runs it, over the reward images alone.

    Batch norms are folded, channels last; on a GPU it may be at full size, see `compressors.networks`.

    Args:
        subject: whose network is cut.
        env: whose plans, and whose solves, it is cut by.
        settings: the reward images are read.
        batches: images in a pass; of several numbers, the one that is fastest with the dense network. None
            for the device's `BATCHES`.
    """

    def __init__(
        self,
        subject: Subject,
        env: CompressionEnv,
        settings: Settings,
        *,
        batches: Sequence[int] | None = None,
    ) -> None:
        batches = batches or BATCHES[env.task.device.type]
        self._networks = env.task.networks(settings.reward_images)
        choices = {
            size: [
                channels_last(batch).to(env.task.device)
                for batch, _ in subject.data.batches("reward", size, settings.reward_images)
            ]
            for size in batches
        }
        dense, taken = Plan.dense(env.graph), dict.fromkeys(batches, float("inf"))
        for size in (*batches, *batches):
            self._batches = choices[size]
            taken[size] = min(taken[size], self.seconds(dense))
        self.batch = min(taken, key=taken.__getitem__)
        self._batches = choices[self.batch]

    def seconds(self, plan: Plan) -> float:
        """Of one pass over all images with the network that a plan leaves; cutting it does not count."""
        with evaluating(self._networks.network(plan)) as network:
            settled()
            start = time.perf_counter()
            for batch in self._batches:
                network(batch)
            settled()
            return time.perf_counter() - start


def settled() -> None:
    """Wait for a GPU, where there is one, to do what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
