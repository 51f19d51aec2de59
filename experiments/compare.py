"""Many agents, many seeds, one table: ``python -m experiments.compare``.

Each run is a search of the tabular benchmark, of seconds; all of them make one record, a row a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.cli import config
from experiments.recording.record import RECORD, RunRecord

if TYPE_CHECKING:  # torch takes seconds to import; a misspelt key is told before
    from agents.search import Agent, Environment


@config.main("compare")
def main(cfg: DictConfig, folder: Path) -> None:
    """Run them all, and say where the record is."""
    compare(cfg, folder)
    print(f"written: {folder / RECORD}; commit it: python -m experiments.report keep {folder} NAME")


def compare(cfg: DictConfig, folder: Path) -> RunRecord:
    """Every contender at every target with every seed; goes on with an unfinished record of the same."""
    record = opened(cfg, folder)
    contenders = {name: record.content["config"]["contenders"][name] for name in cfg.contenders}

    from amc_env import tabular
    from experiments.recording.progress import Meter

    table = tabular.load(cfg.table)
    jobs = list(itertools.product(cfg.targets, contenders, range(cfg.seeds)))
    with record, record.phase("search"), Meter("runs", len(jobs), done=len(record.rows)) as meter:
        best = {str(target): table.known_best(target)[1].top1 for target in cfg.targets}
        record.update(results={"known_best": best, "table": table.card.sha256})
        for target, name, seed in jobs[len(record.rows) :]:
            row = run(contenders[name], table, target, episodes=cfg.episodes, seed=seed)
            record.add(contender=name, target=target, seed=seed, **row)
            meter.update(len(record.rows), **{name: row["curve"][-1][1]})
            meter.facts.clear()
    return record


def opened(cfg: DictConfig, folder: Path) -> RunRecord:
    """A record of these contenders: the folder's, to be gone on with after its last row, or a new one."""
    settings = config.plain(cfg)
    settings["contenders"] = {name: contender(name, words) for name, words in cfg.contenders.items()}
    if (folder / RECORD).exists():
        return RunRecord.resume(folder, settings, episodes=len(RunRecord.read(folder).rows))
    return RunRecord.create(folder, settings, seeds={"first": 0, "runs": cfg.seeds})


def contender(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of an agent and of the environment it brings, under overrides of the main job's config.

    Of one that takes many targets in one search there are these as well.

    Raises:
        ConfigError: for a setting that does not exist or is of another type.
    """
    try:
        cfg = compose("config", list(overrides), return_hydra_config=True)
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        config.check_settings(cfg, hydra)
    except Exception as error:
        raise config.ConfigError(f"contender {name}: {error}") from error
    agent, env = config.plain(cfg.agent), config.plain(cfg.env)
    many = {"targets": list(cfg.targets)} if cfg.targets else {}
    task = {"reward": cfg.protocol.reward} | {key: env[key] for key in ("scale", "beta")}
    return {"agent": agent, "env": task} | many


def run(
    settings: Mapping[str, Any], table: Any, target: float, *, episodes: int, seed: int
) -> dict[str, Any]:
    """One search: its curve, and how many different plans it evaluated."""
    from amc_env.tabular import TabularEnv

    env = TabularEnv(table, target=target, **settings["env"])
    return play(env, agent_of(settings, env, seed=seed), episodes=episodes, seed=seed)


def agent_of(settings: Mapping[str, Any], env: Environment, *, seed: int) -> Agent:
    """A contender's agent for an environment."""
    task: Any = env.unwrapped
    offered = config.accepted(OmegaConf.create(settings["agent"]), decisions=len(task.graph.groups))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    agent: Agent = config.instantiate(settings["agent"], **spaces, **offered, seed=seed)
    return agent


def play(env: Environment, agent: Agent, *, episodes: int, seed: int) -> dict[str, Any]:
    """Search, and remember when the best plan by reward changed and what its top1 is.

    Returns:
        ``curve``, pairs of the evaluation's number from 1 and top1 in [0, 1], and ``distinct``, the number
        of different plans.
    """
    from agents.search import search

    best, curve, seen = -float("inf"), list[tuple[int, float]](), set()
    for trial in search(env, agent, episodes=episodes, seed=seed):
        final = trial.episode.final
        seen.add(final["plan"].kept)
        if trial.episode.reward > best:
            best = trial.episode.reward
            curve.append((trial.index + 1, final["top1"]))
    return {"curve": curve, "distinct": len(seen)}


if __name__ == "__main__":
    main()
