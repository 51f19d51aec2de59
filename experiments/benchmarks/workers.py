"""Episodes a second with worker processes, beside one process with as many threads."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agents.blackbox import CMAES, RandomSearch
from agents.search import search
from amc_env.env import CompressionEnv
from amc_env.workers import Workers
from experiments.benchmarks.sides import ratio
from experiments.benchmarks.subjects import BenchmarkError, Settings, Subject, threads

AGENTS: Mapping[str, type[RandomSearch | CMAES]] = {"random": RandomSearch, "cmaes": CMAES}
COUNT = 2  # workers, and the threads that stand against them
ONE, THREADS, WORKERS = "one_worker", "threads", "workers"


def light(settings: Settings) -> Settings:
    """Images as in a search, and its episodes."""
    return replace(settings, calibration_images=2000, reward_images=1000, episodes=24)


def compare(subject: Subject, settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Searches by agents that ask for many episodes at once, each repeat on all three sides in turn.

    Every repeat has a seed of its own, so that nothing is answered from memory.

    Args:
        subject: what is compressed.
        settings: how much of it; its ``threads`` are nothing to this.
        say: is told of every search.

    Returns:
        ``results``, by agent ``episodes_per_second``, medians by side, and the ratios ``over_one_worker``
        and ``over_threads`` of the speed of the workers; and ``rows``, plain data of a record.

    Raises:
        BenchmarkError: when one worker and several do not give the same rewards.
    """
    env = CompressionEnv(
        subject.model,
        subject.data,
        target=settings.target,
        calibration_images=settings.calibration_images,
        points=settings.points,
        reward_images=settings.reward_images,
        device=settings.device,
        seed=settings.seed,
    )
    rows: list[dict[str, Any]] = []
    with threads(1), _side(env, settings, 1) as one, _side(env, settings, COUNT) as several:
        sides = {ONE: (one, 1), THREADS: ([_own(env, settings)], COUNT), WORKERS: (several, 1)}
        for envs, count in sides.values():
            play(envs, count, RandomSearch, settings, seed=settings.seed)  # every process has started then
        for repeat in range(1, settings.repeats + 1):
            for name, agent in AGENTS.items():
                row: dict[str, Any] = {"agent": name, "repeat": repeat}
                rewards = {}
                for side, (envs, count) in sides.items():
                    seconds, rewards[side] = play(envs, count, agent, settings, seed=settings.seed + repeat)
                    row[f"{side}_seconds"] = {"episode": seconds / settings.episodes}
                if rewards[ONE] != rewards[WORKERS]:
                    raise BenchmarkError(f"{rewards[ONE]} of one worker, {rewards[WORKERS]} of {COUNT}")
                rows.append(row)
                say(f"{subject.name}, {name}: round {repeat} of {settings.repeats}")
    return {"results": {"weights": subject.weights} | summary(rows), "rows": rows}


def play(
    envs: Sequence[CompressionEnv],
    count: int,
    agent: type[RandomSearch | CMAES],
    settings: Settings,
    *,
    seed: int,
) -> tuple[float, list[float]]:
    """The seconds of a search in a process of so many threads, and its rewards."""
    spaces = envs[0].observation_space, envs[0].action_space
    player = agent(*spaces, decisions=len(envs[0].graph.groups), seed=seed)
    with threads(count):
        start = time.perf_counter()
        trials = list(search(envs[0], player, episodes=settings.episodes, seed=seed))
        return time.perf_counter() - start, [trial.episode.reward for trial in trials]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By agent, medians of episodes a second, and ratios of each row with itself."""
    found = {}
    for agent in {row["agent"]: None for row in rows}:
        own = [row for row in rows if row["agent"] == agent]
        found[agent] = {
            "episodes_per_second": {
                side: statistics.median(1 / row[f"{side}_seconds"]["episode"] for row in own)
                for side in (ONE, THREADS, WORKERS)
            },
            "over_one_worker": ratio(own, ONE, WORKERS),
            "over_threads": ratio(own, THREADS, WORKERS),
        }
    return found


def _own(env: CompressionEnv, settings: Settings) -> CompressionEnv:
    """The environment with an evaluator of its own, that remembers nothing of another side."""
    twin = env.twin()
    twin.evaluator = env.judge("reward", settings.reward_images)
    return twin


@contextmanager
def _side(env: CompressionEnv, settings: Settings, count: int) -> Iterator[list[CompressionEnv]]:
    first = env.twin()
    with Workers(env.judge("reward", settings.reward_images), count) as workers:
        first.evaluator = workers
        yield [first, *(first.twin() for _ in range(count - 1))]
