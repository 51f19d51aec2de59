"""What comparisons of agents on one network share: their jobs, the searches, and the curves of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.episode import Agent
from agents.search import search
from amc_env.env import CompressionEnv
from experiments.recording.plans import counts
from experiments.recording.progress import Meter
from experiments.recording.record import RunRecord

POINTS = 40  # of a curve


@dataclass(frozen=True)
class Job:
    """One search: a policy, the fraction of the resource that may be spent, and the agent's seed."""

    policy: str
    target: float
    seed: int


def run_all(
    record: RunRecord,
    jobs: Sequence[Job],
    row: Callable[[Job], dict[str, Any]],
    accuracy: Callable[[Mapping[str, Any]], float],
) -> None:
    """Run the jobs that a record has no row of yet, and add a row for each.

    Args:
        record: open.
        jobs: all of the comparison.
        row: runs one.
        accuracy: of a row, to be shown beside its policy's name.
    """
    done = {Job(row["policy"], row["target"], row["seed"]) for row in record.rows}
    with record.phase("runs"), Meter("runs", len(jobs), done=len(done)) as meter:
        for job in jobs:
            if job not in done:
                found = row(job)
                record.add(**found)
                meter.update(len(record.rows), **{job.policy: accuracy(found)})


def trials_of(env: CompressionEnv, agent: Agent, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Run a search; returns for each trial the keys that `plans.candidates` reads, and its seconds."""
    found = []
    for trial in search(env, agent, episodes=episodes, seed=seed):
        final = trial.episode.final
        found.append(
            {
                "episode": trial.index, "reward": trial.episode.reward, "n_images": final["n_images"],
                "counts": counts(env, final["plan"]), "seconds": trial.seconds,
            }
        )  # fmt: skip
    return found


def curve(
    trials: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
) -> dict[str, list[Any]]:
    """The best reward so far at some evaluations, spaced evenly on a log scale.

    Args:
        trials: of the last stage, whose rewards are drawn.
        before: of earlier stages, whose evaluations and seconds count.

    Returns:
        ``curve``, pairs of evaluation, from 1, and reward; ``curve_seconds``, since the search's start.
    """
    spent, began = len(before), sum(trial["seconds"] for trial in before)
    at = np.unique(np.geomspace(1, len(trials), POINTS).round().astype(int))
    rewards = np.maximum.accumulate([trial["reward"] for trial in trials])
    seconds = np.cumsum([trial["seconds"] for trial in trials])
    return {
        "curve": [[spent + int(x), round(float(rewards[x - 1]), 6)] for x in at],
        "curve_seconds": [round(began + float(seconds[x - 1]), 3) for x in at],
    }
