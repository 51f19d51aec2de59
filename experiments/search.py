"""The main job: ``python -m experiments.search``. Search, confirm, fine-tune, export, measure, record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cli import config
from experiments.recording.lock import alone
from experiments.recording.record import RECORD, RunRecord

if TYPE_CHECKING:  # torch takes seconds to import; a misspelt key is told before
    from agents.search import Agent, Environment, Trial
    from amc_env.env import CompressionEnv
    from amc_env.plan import Plan
    from experiments.recording.tracking import Tracker

PLAN = "plan.json"


@config.main("config")
def main(cfg: DictConfig, folder: Path) -> float:
    """Run it, and give a sweep's optimiser the accuracy that it found, on the selection split."""
    record = search(cfg, folder)
    return float(record.content["best"]["selection"]["top1"])


def search(cfg: DictConfig, folder: Path) -> RunRecord:
    """Everything that `main` does, without Hydra's run time.

    A folder that holds an unfinished search of the same configuration is gone on with, a finished one read.
    """
    settings = _settings(cfg)
    if (folder / RECORD).exists() and (done := RunRecord.read(folder)).content["status"] == "finished":
        done.check(settings)
        print(f"{folder} is finished: nothing to do; choose another output=FOLDER to search again")
        return done
    with alone(folder):
        return _search(cfg, folder, settings)


def _search(cfg: DictConfig, folder: Path, settings: dict[str, Any]) -> RunRecord:
    state = _saved(folder)
    if (folder / RECORD).exists():
        record = RunRecord.resume(folder, settings, episodes=state.episodes if state else 0)
    else:
        record = RunRecord.create(folder, settings, seeds={"search": cfg.seed, "splits": cfg.data.seed})

    from experiments.cli.problem import environment, played, trained
    from experiments.delivery.deliver import deliver

    with record, config.instantiate(cfg.tracking, folder=folder, config=record.content["config"]) as tracker:
        with record.phase("prepare"):
            subject = trained(cfg)
            env = environment(cfg, subject)
            task = played(cfg, env)
            spaces = {"observation_space": task.observation_space, "action_space": task.action_space}
            spaces |= config.accepted(cfg.agent, decisions=len(env.graph.groups))
            agent = config.instantiate(cfg.agent, **spaces, seed=cfg.seed)
            if state is not None:
                agent.load_state_dict(state.agent)
        try:
            asked = {"episodes": cfg.episodes, "seed": cfg.seed, "save_every": cfg.save_every}
            explore(task, agent, record, tracker, **asked)
        finally:
            save_best(env, record)
            note_work(env, record)
        plan = confirm(env, record, limit=cfg.confirm, targets=cfg.targets)
        tracker.summary(
            {"best_reward": record.content["best"]["reward"]} | record.content["best"]["selection"]
        )
        tracker.artifact("plan", "plan", [folder / PLAN], {"plan": plan.hash})
        if cfg.deliver:
            deliver(cfg, subject, env, plan, record, tracker)
    return record


def explore(
    env: Environment,
    agent: Agent,
    record: RunRecord,
    tracker: Tracker,
    *,
    episodes: int,
    seed: int,
    save_every: int,
) -> None:
    """Search on from the record's last row: a row an episode, a state of the agent every few."""
    from agents.search import search as episodes_of
    from experiments.recording import plans
    from experiments.recording.progress import Meter
    from experiments.recording.state import save
    from experiments.recording.tracking import episode_metrics

    task: Any = env.unwrapped
    whole = task.budget.widths([])
    dense = {"dense_macs": int(task.macs(whole)), "dense_params": int(task.params(whole))}
    start, best = len(record.rows), plans.best_reward(record.rows)
    with record.phase("search"), Meter("episodes", episodes, done=start) as meter:
        for trial in episodes_of(env, agent, episodes=episodes, seed=seed, start=start):
            best = max(best, trial.episode.reward)
            row = episode_metrics(trial, best_reward=best, **dense)
            counts = plans.counts(task, trial.episode.final["plan"])
            record.add(**row, counts=counts, keep_asked=_asked(trial))
            tracker.log(row)
            meter.update(trial.index + 1, best=best, top1=row["top1"], keep=row["macs_share"])
            if (trial.index + 1) % save_every == 0:
                save(record.folder, agent, trial.index + 1)
    record.content["seconds"] |= {name: round(taken, 3) for name, taken in task.evaluator.seconds.items()}


def save_best(env: CompressionEnv, record: RunRecord) -> None:
    """Write the plan of largest reward so far, also after an interrupt; nothing where there is none yet."""
    from experiments.recording.plans import candidates, plan_of, within

    for row in candidates(within(env, record.rows), 1):
        plan = plan_of(env, row["counts"])
        (record.folder / PLAN).write_text(plan.to_json() + "\n")
        record.update(best={"episode": row["episode"], "reward": row["reward"], "plan": plan.to_dict()})


def note_work(env: CompressionEnv, record: RunRecord) -> None:
    """Add to ``results.work`` what had to be done for the rewards, beside what was remembered.

    ``evaluations`` are networks that were cut, ``forwards`` images that were sent through one;
    ``results.execution`` says on what.
    """
    before = record.content["results"].get("work", {})
    judge: Any = env.evaluator
    done = {"evaluations": judge.evaluations, "forwards": judge.forwards}
    work = {name: before.get(name, 0) + count for name, count in done.items()}
    record.update(results={"work": work, "execution": env.task.device.type})


def confirm(env: CompressionEnv, record: RunRecord, *, limit: int, targets: Sequence[float] = ()) -> Plan:
    """Measure the ``limit`` best plans on the whole selection split and settle on the most accurate.

    The best of many on the reward images owes part of its reward to chance (design, decision 17). With
    targets the same is done for each of them, and the curve that they make is drawn and shown.
    """
    from experiments.analysis.curve import chosen, draw
    from experiments.recording.plans import candidates, plan_of, uniform, within

    aims = [env, *(env.twin(target) for target in targets)]
    rows = {row["episode"]: row for aim in aims for row in candidates(within(aim, record.rows), limit)}
    with record.phase("confirm"):
        judge = env.task.evaluator("selection")
        measured = [(row, judge(plan_of(env, row["counts"]))) for row in rows.values()]
        row, selection = chosen(env, measured)
        if targets:
            draw(aims[1:], measured, judge, record)
        plan = plan_of(env, row["counts"])
        reference = judge(uniform(env))
    (record.folder / PLAN).write_text(plan.to_json() + "\n")
    best = {
        "episode": row["episode"],
        "reward": row["reward"],
        "counts": row["counts"],
        "plan": plan.to_dict(),
    }
    best |= {"macs_share": row["macs_share"], "params_share": row["params_share"], "selection": selection}
    tried = [{"episode": r["episode"], "reward": r["reward"], "selection": e.top1} for r, e in measured]
    record.update(best=best, results={"candidates": tried, "uniform": {"selection": reference}})
    return plan


def _settings(cfg: DictConfig) -> dict[str, Any]:
    for key in ("episodes", "confirm", "save_every"):
        if cfg[key] < 1:
            raise config.ConfigError(f"{key}={cfg[key]}: it is at least 1")
    return config.plain(cfg)


def _asked(trial: Trial) -> list[float]:
    return [info["keep_asked"] for info in trial.episode.infos]


def _saved(folder: Path) -> Any:
    from experiments.recording.state import load

    return load(folder)


if __name__ == "__main__":
    main()
