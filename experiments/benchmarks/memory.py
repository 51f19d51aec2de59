"""Peak memory of one episode, in a process of its own."""

import json
import resource
import subprocess
import sys
from dataclasses import asdict

from experiments.benchmarks.subjects import Settings

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


def peak(side: str, name: str, settings: Settings) -> int:
    """Bytes that a process has held at most when it has prepared a side and played one episode.

    Linux counts what the parent held when it started a child as the child's: call this while the parent is
    small.
    """
    code = "import sys; from experiments.benchmarks import memory; memory.child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, side, name, json.dumps(asdict(settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def child(side: str, name: str, settings: str) -> None:
    """What runs in that process: prints the bytes."""
    episode(side, name, Settings(**json.loads(settings)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT)


def episode(side: str, name: str, settings: Settings) -> float:
    """Everything from reading the data to the accuracy of a plan that keeps half of each group.

    Ours makes its moments anew, as in a search that is the first of its network.
    """
    from amc_env.compressors.reconstruct import collect
    from amc_env.plan import Plan
    from amc_env.trace import trace
    from experiments.benchmarks.ours import Ours
    from experiments.benchmarks.reference import Reference
    from experiments.benchmarks.subjects import images, subject, threads

    with threads(settings.threads):
        data = images(settings)
        subject_ = subject(name, data)
        if side == "reference":
            graph = trace(subject_.model, data.shape)
            counts = [max(1, len(group) // 2) for group in graph.groups]
            return Reference(subject_, graph, settings).play(counts).top1
        graph = trace(subject_.model, data.shape)
        collect(
            subject_.model, graph, data,
            images=settings.calibration_images, points=settings.points, seed=settings.seed,
        )  # fmt: skip
        env = Ours(subject_, settings).env
        plan = Plan.dense(graph)
        for group in graph.groups:
            plan = plan.with_group(group.index, env.compressor.choose(group.index, max(1, len(group) // 2)))
        return env.evaluator(plan).top1
