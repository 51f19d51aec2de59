"""Peak memory: of one episode, of many, and of a large network; each in a process of its own."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agents.blackbox import RandomSearch
from agents.search import search
from amc_env import zoo
from amc_env.building import make_env
from amc_env.data.splits import CACHE, from_tensors
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair.moments import collect
from experiments.benchmarks.ours import Ours
from experiments.benchmarks.reference import Reference
from experiments.benchmarks.subjects import Settings, calibrate, images, subject, threads

STATUS = Path("/proc/self/status")
LOOKS = (10, 100, 500, 1000, 1500, 2000)  # episodes after which a long search is looked at
LARGE = {"images": 512, "size": 224, "classes": 1000, "points": 10}


def light(settings: Settings) -> Settings:
    """Images of a long search."""
    return replace(settings, calibration_images=2000, reward_images=100)


def measure(settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Peaks in bytes: ``long``, of random episodes of Plain-20 at each of `LOOKS`; ``large``, of a ResNet-50
    with random weights, its moments and a plan on `LARGE`.
    """
    long = peak("long", "plain20", LOOKS, settings)
    say(f"memory: {long[-1] / 1e6:,.0f} MB after {LOOKS[-1]} episodes")
    with TemporaryDirectory() as folder:  # a gigabyte of moments, made anew
        large = peak("large", LARGE, settings, cache=folder)
    say(f"memory: {large / 1e6:,.0f} MB of a ResNet-50")
    return {"long": {"episodes": list(LOOKS), "bytes": long}, "large": LARGE | {"bytes": large}}


def peak(*work: Any, cache: str | None = None) -> Any:
    """What a process of its own prints that does some work, see `child`; ``cache`` in place of our folder."""
    code = "import sys; from experiments.benchmarks import memory; memory.child(sys.argv[1])"
    asked = json.dumps([asdict(part) if isinstance(part, Settings) else part for part in work])
    environment = os.environ | ({} if cache is None else {CACHE: cache})
    command = [sys.executable, "-c", code, asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(asked: str) -> None:
    """What runs in that process: prints the most bytes that it has held, or a list of these."""
    what, *rest, settings = json.loads(asked)
    if what == "long":
        name, looks = rest
        print(long(name, looks, Settings(**settings)))
        return
    if what == "large":
        large(Settings(**settings), **rest[0])
    else:
        episode(what, rest[0], Settings(**settings))
    print(most())


def most() -> int:
    """The most bytes that this process has held.

    On Linux from its own status: the counter of `resource` begins with what the parent held.
    """
    if STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())):
        return 1024 * int(found.group(1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def long(name: str, looks: Sequence[int], settings: Settings) -> list[int]:
    """The most bytes after so many episodes of random search, as it is by default."""
    with threads(settings.threads):
        env = Ours(subject(name, images(settings)), settings).env
        spaces = env.observation_space, env.action_space
        agent = RandomSearch(*spaces, decisions=len(env.graph.groups), seed=settings.seed)
        found = []
        for trial in search(env, agent, episodes=looks[-1], seed=settings.seed):
            if trial.index + 1 in looks:
                found.append(most())
        return found


def large(settings: Settings, *, images: int, size: int, classes: int, points: int) -> float:
    """Moments and one plan of a ResNet-50 with random weights, on noise; both on as many images."""
    generator = torch.Generator().manual_seed(settings.seed)
    with threads(settings.threads):
        count = 2 * images + 16
        noise = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count) % classes
        data = from_tensors(
            noise, labels, noise[:1].clone(), labels[:1], seed=0, classes=classes,
            held_out=(images, images, 1), mean=(0.5,) * 3, std=(0.25,) * 3,
        )  # fmt: skip
        del noise  # the splits are copies
        model = calibrate(
            zoo.build("resnet50", classes=classes, in_channels=3, seed=0, small=False), data, images=15
        )
        env = make_env(
            model, data, target=settings.target, calibration_images=images, reward_images=images,
            points=points, order="magnitude", device=settings.device, seed=settings.seed,
        )  # fmt: skip
        env.reset()
        for _ in env.graph.groups:
            *_, info = env.step([0.5])
        top1: float = info["top1"]
        return top1


def episode(side: str, name: str, settings: Settings) -> float:
    """Everything from reading the data to the accuracy of a plan that keeps half of each group.

    Ours makes its moments anew, as in a search that is the first of its network.
    """
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
        ours = Ours(subject_, settings)
        plan = Plan.dense(graph)
        for group in graph.groups:
            kept = ours.env.compressor.choose(group.index, max(1, len(group) // 2))
            plan = plan.with_group(group.index, kept)
        top1: float = ours.judge(plan).top1
        return top1
