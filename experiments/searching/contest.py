"""What comparisons of agents on one network share: contenders, jobs, searches, and the curves of these."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from agents import critic, rules
from agents.episode import Agent
from agents.pretrained import SHIPPED, Pretrained
from agents.search import search
from amc_env.env import CompressionEnv
from experiments.cli import config
from experiments.cli import contenders as named
from experiments.cli.problem import build_agent, scale_of
from experiments.recording import opening
from experiments.recording.plans import counts
from experiments.recording.progress import Meter
from experiments.recording.record import RecordError, RunRecord

POINTS = 40  # of a curve


@dataclass(frozen=True)
class Job:
    """One search: a contender or one-shot method by its name, the fraction to spend, and the seed."""

    policy: str
    target: float
    seed: int


def contenders_of(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """The settings of the named contenders, see `contender`."""
    return {name: contender(name, cfg.contenders[name]) for name in named.chosen(cfg)}


def contender(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of agent and environment in overrides of the main job's configuration.

    Returns:
        ``agent`` and ``env``, their settings.

    Raises:
        ConfigError: for a setting that does not exist or is of another type.
    """
    cfg = named.configured(name, overrides)
    task = {"reward": cfg.protocol.reward, "scale": scale_of(cfg), "beta": cfg.env.beta}
    return {"agent": config.complete(cfg)["agent"], "env": task}


def is_rule(settings: Mapping[str, Any]) -> bool:
    """Whether a contender always plays the same plan."""
    return rules.is_rule(str(settings["agent"]["_target_"]))


def seeds_of(cfg: DictConfig, settings: Mapping[str, Any]) -> range:
    """The seeds of a contender's runs; a rule, which is deterministic, has only seed 0."""
    return range(cfg.first_seed, 1 if is_rule(settings) else cfg.first_seed + cfg.seeds)


def opened(cfg: DictConfig, folder: Path, contenders: Mapping[str, Any]) -> RunRecord:
    """The folder's record of these contenders, to be resumed after its last row, or a new one."""
    settings = config.plain(cfg) | {"contenders": dict(contenders)}
    del settings["only"]  # the contenders are
    return opening.opened(folder, settings, seeds={"first": cfg.first_seed, "runs": cfg.seeds})


def build_all(
    contenders: Mapping[str, Any],
    targets: Iterable[float],
    environment: Callable[[Mapping[str, Any], float], CompressionEnv],
) -> None:
    """Make each environment and agent once, so that a wrong setting is an error before the first search.

    Args:
        contenders: their settings by name.
        targets: fractions of the resource.
        environment: makes that of a contender's settings and a target.
    """
    for target, settings in itertools.product(targets, contenders.values()):
        build_agent(settings["agent"], environment(settings, target), seed=0)


def note_critics(record: RunRecord, contenders: Mapping[str, Any]) -> None:
    """Write into a record which critics contenders read, and which tables these were trained on.

    Raises:
        CriticError: for a file that is no critic.
        RecordError: if the record was begun with other critics of that name.
    """
    found = {}
    for name, settings in contenders.items():
        if settings["agent"]["_target_"] == f"{Pretrained.__module__}.{Pretrained.__name__}":
            known = critic.read(Path(settings["agent"].get("critic") or SHIPPED))
            found[name] = {"sha256": known.digest, "tables": list(known.tables)}
    if record.content["results"].get("critics", found) != found:
        raise RecordError(f"{record.folder} was begun with other critics: choose another folder")
    if found:
        record.update(results={"critics": found})


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
        accuracy: of a row, to be shown beside its name.
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
