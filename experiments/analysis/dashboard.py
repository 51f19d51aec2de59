"""A workspace and a report of Weights & Biases that compare agents, and the upload of offline runs.

Both are built and checked without a network; ``push=true`` sends them.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from omegaconf import DictConfig

from amc_env.checks import number_of
from experiments.recording.networks import FOUND, FOUND_BEFORE, UNIFORM, after_tuning

TITLE = "AMC: agents compared"
SYNCED = ".synced"  # W&B's mark beside the file of a run that it has uploaded
SEARCH = {  # by title, the metrics of a chart over episodes
    "Best reward so far": ["best_reward"],
    "Reward of each episode": ["reward"],
    "Accuracy on the reward images": ["top1"],
    "Cost of each plan": ["macs_share", "params_share"],
    "Bounded decisions": ["bound_share"],
    "Seconds an episode": ["episode_seconds"],
}
AGENT = {
    "Exploration noise": ["agent/sigma"],
    "Critic": ["agent/critic_loss", "agent/q"],
    "Baseline of the target": ["agent/baseline"],
}
TRAINING = {"Loss": ["train/loss"], "Accuracy on selection": ["train/selection"]}
FINAL = {  # by title, keys of a run's summary
    "Reward of the plan": ["best/reward"],
    "Test accuracy, before and after fine-tuning": [f"{name}/test" for name in (FOUND, after_tuning(FOUND))],
    "Test accuracy of the uniform policy": [f"{name}/test" for name in (UNIFORM, after_tuning(UNIFORM))],
}


class DashboardError(RuntimeError):
    """W&B cannot be reached, or refuses what it is sent."""


def main(cfg: DictConfig, folder: Path) -> None:
    """Upload offline runs with ``sync``, build the dashboard, and send it with ``push``."""
    if cfg.sync is not None:
        sync(Path(cfg.sync))
    own = _entity() if cfg.push else ""
    entity = cfg.entity or own
    made: list[Any] = [workspace(entity, cfg.project), report(entity, cfg.project)]
    if not cfg.push:
        print(f"a workspace and a report of {len(named())} metrics are valid; push=true sends them")
        return
    for one in made:
        try:
            one.save()
        except (wandb.Error, ValueError) as error:
            raise DashboardError(f"W&B did not take the dashboard: {error}") from error
        print(one.url)


def named() -> set[str]:
    """Every metric and key of a summary that the dashboard shows."""
    return {name for part in (SEARCH, AGENT, TRAINING, FINAL) for names in part.values() for name in names}


def workspace(entity: str, project: str) -> ws.Workspace:
    """Sections of charts, runs grouped by agent."""
    parts = {"Search": lines(SEARCH), "Agent": lines(AGENT)}
    parts |= {"Fine-tuning": lines(TRAINING, "train/epoch"), "Results": bars(FINAL)}
    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def report(entity: str, project: str) -> wr.Report:
    """The same charts, each with a line of text; runs grouped by agent."""
    runs = wr.Runset(entity=entity, project=project, name="agents", groupby=["Group", "JobType"])
    parts: list[tuple[str, str, list[Any]]] = [
        ("Search", "Means over seeds; the band is one standard error.", lines(SEARCH)),
        ("What the learner does", "Only agents that learn log these.", lines(AGENT)),
        ("Fine-tuning", "The same recipe for every plan.", lines(TRAINING, "train/epoch")),
        ("Results", "The test split, read once at the end of a run.", bars(FINAL)),
    ]
    blocks: list[Any] = [wr.TableOfContents()]
    for title, text, panels in parts:
        blocks += [wr.H2(title), wr.P(text), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(project=project, entity=entity, title=TITLE, blocks=blocks, width="fluid")


def lines(charts: dict[str, list[str]], x: str = "episode") -> list[Any]:
    """Line charts over a metric, means of each group with a standard error."""
    return [
        wr.LinePlot(
            title=title, x=x, y=list(names), title_x=x, aggregate=True, groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
        for title, names in charts.items()
    ]  # fmt: skip


def bars(charts: dict[str, list[str]]) -> list[Any]:
    """Bar charts of keys of the summaries, with the names that older runs gave them."""
    every = {
        title: dict.fromkeys([*names, *(name.replace(FOUND, FOUND_BEFORE) for name in names)])
        for title, names in charts.items()
    }
    return [wr.BarPlot(title=title, metrics=list(names), aggregate=True) for title, names in every.items()]


def sync(folder: Path, upload: Callable[[Path], int] | None = None) -> list[Path]:
    """Upload the offline runs below a folder that are not yet uploaded, the oldest first.

    Raises:
        DashboardError: if there is none, or one fails; the same command then uploads the rest.
    """
    every = offline(folder)
    if not every:
        raise DashboardError(f"no offline run of W&B in {folder}: run with tracking=wandb_offline")
    left = [run for run in every if not any(run.glob(f"*{SYNCED}"))]
    runs = number_of(len(every), "offline run")
    print(f"{runs} in {folder}: {len(every) - len(left)} uploaded, {len(left)} left")
    for at, run in enumerate(left, 1):
        if (status := (upload or _upload)(run)) != 0:
            raise DashboardError(
                f"wandb sync {run} ended with {status}: is there a network, and a login (wandb login)?"
            )
        print(f"uploaded {at} of {len(left)}: {run}")
    return left


def offline(folder: Path) -> list[Path]:
    """The offline runs below a folder, sorted by the start time in their names.

    A search that was resumed has one for each process; the last one has the rows of all before it.
    """
    every = sorted(
        (path for path in folder.rglob("offline-run-*") if path.is_dir()), key=lambda path: path.name
    )
    newest = {run.parent: run for run in every}
    return [run for run in every if newest[run.parent] == run]


def _upload(run: Path) -> int:
    command: Sequence[str] = [sys.executable, "-m", "wandb", "sync", str(run)]
    return subprocess.run(command, check=False).returncode


def _entity() -> str:
    try:
        return str(wandb.Api().default_entity)
    except (wandb.Error, ValueError) as error:
        raise DashboardError(f"W&B has no login here ({error}): wandb login, then again") from error
