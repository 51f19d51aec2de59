"""The main job: search, confirm the best plans, deliver the network of the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import RenderableType

from agents.episode import Agent
from agents.search import search as trials
from amc_env.compressors import plan_of
from amc_env.env import CompressionEnv
from amc_env.repair.sequential import calibrated
from experiments.analysis import outcome
from experiments.cli import config
from experiments.cli.identity import check_identity
from experiments.cli.problem import build_agent, environment, foresee
from experiments.cli.trained import trained
from experiments.delivery.deliver import deliver
from experiments.delivery.rehearsal import rehearse
from experiments.recording import panel, plans, state
from experiments.recording.lock import alone
from experiments.recording.opening import ended, opened
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RunRecord, recorded
from experiments.recording.tracking import Tracker, episode_metrics
from experiments.searching.confirm import confirm
from experiments.training.distillation import teacher_of
from experiments.training.recipe import Recipe

PLANS = ("counts", "keep_asked")  # of a row of the record, which trackers do not get


def main(cfg: DictConfig, folder: Path) -> float:
    """Run the job; returns the plan's accuracy on the selection split, for a sweep's optimiser."""
    record = search(cfg, folder)
    return float(record.content["best"]["selection"]["top1"])


def search(cfg: DictConfig, folder: Path) -> RunRecord:
    """The same as `main`, for a caller without Hydra.

    Resumes an unfinished search of the same configuration that it finds in the folder, also a finished one
    whose files are missing, and reads one that is whole.

    Raises:
        ConfigError: for an impossible value, before anything is written.
        RecordError: when the folder holds a search of another configuration.
    """
    config.check_settings(cfg)
    settings = config.complete(cfg)
    if (done := ended(folder, settings, "search")) is not None:
        return done
    foresee(cfg)
    tracker = config.instantiate(cfg.tracking, folder=folder, config=recorded(settings))
    with alone(folder):
        before = RunRecord.read(folder) if (folder / RECORD).exists() else None
        if before is not None:
            before.check(settings)  # or states at other episodes would be told as a loss
        saved = None if before is None else state.load(before, cfg.save_every)
        seeds = {"search": cfg.seed, "splits": cfg.data.seed}
        record = opened(folder, settings, seeds=seeds, rows=saved.episodes if saved else 0)
        with record, tracker:
            _search(cfg, record, tracker, saved)
    return record


def _search(cfg: DictConfig, record: RunRecord, tracker: Tracker, saved: state.State | None) -> None:
    with record.phase("prepare"):
        original = trained(cfg)
        env = environment(cfg, original)
        agent = build_agent(cfg.agent, env, seed=cfg.seed)
        digests = check_identity(record, original.model, original.data)
        read = calibrated(env.graph, original.data, cfg.compressor.calibration_images)
        record.update(results={"groups": plans.groups(env.graph), "calibration": read} | digests)
        if saved is not None:
            agent.load_state_dict(saved.agent)
        possible = None
        if cfg.deliver and cfg.finetune.epochs and env.task.tunable:
            teacher_of(Recipe(**config.plain(cfg.finetune)), original.model, original.data)
        if cfg.deliver and saved is None:
            possible = rehearse(env.task, tuned=bool(cfg.finetune.epochs))
    try:
        explore(env, agent, record, tracker, episodes=cfg.episodes, seed=cfg.seed, save_every=cfg.save_every)
    finally:
        save_best(env, record)
        note_work(env, record)
    plan = confirm(env, record, limit=cfg.confirm)
    best = record.content["best"]
    selection = {
        f"best/selection/{name}": value for name, value in best["selection"].items() if name != "split"
    }
    known = ("reward", "macs_share", "params_share")
    tracker.summary({f"best/{name}": best[name] for name in known if name in best} | selection)
    record.wrote(record.folder / plans.PLAN)
    tracker.artifact("plan", "plan", [record.folder / plans.PLAN], {"plan": plan.hash})
    if cfg.deliver:
        deliver(cfg, original, env, plan, record, tracker, possible)
        tracker.artifact("report", "report", outcome.write(record), {})


def explore(
    env: CompressionEnv,
    agent: Agent,
    record: RunRecord,
    tracker: Tracker,
    *,
    episodes: int,
    seed: int,
    save_every: int,
) -> None:
    """Continue a search after the record's last row, with a row an episode and regular states of the agent.

    Args:
        env: the environment that the agent plays.
        agent: restored to the record's last row.
        record: gets the rows.
        tracker: gets the same.
        episodes: total number, including those in the record.
        seed: of the environment's resets.
        save_every: episodes between two states on disk.
    """
    dense = env.costs([])
    start, best = len(record.rows), plans.best_reward(record.rows)
    for row in record.rows:  # a tracker's run begins with this process
        tracker.log({name: value for name, value in row.items() if name not in PLANS})
    with record.phase("search"), Meter("episodes", episodes, done=start) as meter:
        for trial in trials(env, agent, episodes=episodes, seed=seed, start=start):
            if trial.index == start:
                state.readable(agent)  # or all evaluations until the first state would be lost
            best = max(best, trial.episode.reward)
            row = episode_metrics(trial, best_reward=best, dense=dense)
            counts = plans.counts(env, trial.episode.final["plan"])
            asked = [info["keep_asked"] for info in trial.episode.infos]
            record.add(**row, counts=counts, keep_asked=asked)
            tracker.log(row)
            meter.update(trial.index + 1, best=best, top1=row["top1"], macs=row["macs_share"])
            if meter.live:
                meter.draw(_panel(env, record.rows))
            if (trial.index + 1) % save_every == 0 or trial.index + 1 == episodes:
                state.save(record, agent)


def _panel(env: CompressionEnv, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The terminal's panel of a search after its last row."""
    groups, counts, budget = plans.groups(env.graph), rows[-1]["counts"], env.budget
    kept = [(str(g["layer"]), n / int(g["size"])) for g, n in zip(groups, counts, strict=True)]
    spent = f"{budget.spent(counts):.1%} of the {budget.unit} taken"
    allowed = f"{spent}, {budget.limit / budget.dense:.1%} allowed"
    return panel.search([row["best_reward"] for row in rows], kept, allowed)


def save_best(env: CompressionEnv, record: RunRecord) -> None:
    """Write the plan with the largest reward so far, also after an interrupt; nothing without rows."""
    for row in plans.candidates(record.rows, 1):
        plan = plan_of(env.compressor, row["counts"])
        plan.write(record.folder / plans.PLAN)
        record.update(best={"episode": row["episode"], "reward": row["reward"], "plan": plan.to_dict()})


def note_work(env: CompressionEnv, record: RunRecord) -> None:
    """Add this process's cut networks and evaluated images to ``results.work``, and what they took."""
    before = record.content["results"].get("work", {})
    evaluator: Any = env.evaluator
    done = {"evaluations": evaluator.evaluations, "forwards": evaluator.forwards}
    work = {name: before.get(name, 0) + count for name, count in done.items()}
    seconds = record.content["seconds"]
    seconds |= {name: round(seconds.get(name, 0.0) + taken, 3) for name, taken in evaluator.seconds.items()}
    record.update(results={"work": work, "execution": env.task.device.type})
