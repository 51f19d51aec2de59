"""Weights & Biases as a view of a run's record."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import wandb

from experiments.recording import invocation, wandb_names
from experiments.recording.tracking import TrackingError


class WandbTracker:
    """Logs to Weights & Biases and keeps all its files inside the run's folder.

    Args:
        folder: the run's folder; W&B writes to ``wandb`` in it.
        config: the resolved configuration, as plain data.
        mode: "offline" writes files that ``wandb sync`` uploads and ``wandb leet`` shows; "online" needs a
            login.
        project: name of the project.
        group: runs that W&B shows together; None: those of the same experiment file, or of the same network,
            data and budget.
        tags: labels of the run, beside the names of its network, data and agent.

    Raises:
        TrackingError: on entry, when W&B cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        mode: Literal["offline", "online"] = "offline",
        project: str = "amc-rl",
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if mode not in ("offline", "online"):
            raise TrackingError(
                f"unknown mode {mode!r} of W&B; there are offline, online (and tracking=none)"
            )
        wandb_names.check(project, group, tags)
        self.folder, self.config, self.mode = folder.absolute(), dict(config), mode
        self.project, self.group = project, group or invocation.group(config)
        self.agent = invocation.agent(config)
        named = [config[key]["name"] for key in ("model", "data") if key in config]
        self.tags = list(dict.fromkeys([*tags, *named, *([self.agent] if self.agent else [])]))

    def __enter__(self) -> Self:
        self._environment = _Environment(
            WANDB_DATA_DIR=str(self.folder / "wandb" / "data"),  # else artifacts are staged in ~/.local/share
            WANDB_CACHE_DIR=str(self.folder / "wandb" / "cache"),  # else logs go to ~/.cache
            WANDB_DISABLE_WEAVE="true",  # it mistakes our `agents` for another package, and advertises
        )
        self._environment.set()
        settings = wandb.Settings(
            console="off",  # the progress bar on the terminal is not a log
            silent=True,
            disable_git=True,  # the config holds the commit
            init_timeout=30,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=1.0,  # seconds; of 15, a kill takes all
        )
        try:
            self.run = wandb.init(
                dir=self.folder,
                mode=self.mode,
                project=self.project,
                name=invocation.name(self.folder, self.config)[: wandb_names.NAME],
                group=self.group,
                job_type=self.agent,
                tags=self.tags,
                config=self.config,
                settings=settings,
                reinit="create_new",
            )
        except (wandb.Error, ValueError, OSError) as error:  # ValueError: of the environment
            self._environment.restore()
            raise TrackingError(
                f"W&B does not start {self.mode} ({error}): use tracking=wandb_offline or tracking=none"
            ) from error
        self.run.define_metric("*", step_metric="episode", step_sync=False)
        for name in ("train", "uniform"):
            self.run.define_metric(f"{name}/*", step_metric=f"{name}/epoch", step_sync=False)
        return self

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row of the history."""
        self.run.log(dict(metrics))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set keys of the run's summary."""
        self.run.summary.update(dict(values))

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Log copies of files as one artifact; pictures and tables are also shown."""
        artifact = wandb.Artifact(name, kind, metadata=dict(facts))
        for path in files:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)
        for path in files:
            if path.suffix == ".png":
                self.run.log({f"figures/{path.stem}": wandb.Image(str(path))})
            elif path.suffix == ".csv":
                head, *rows = csv.reader(path.read_text().splitlines())
                self.run.log({f"tables/{path.stem}": wandb.Table(columns=[*head], data=rows)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run.finish(exit_code=0 if error is None else 1)
        finally:
            self._environment.restore()


class _Environment:
    """Sets environment variables, and restores them later."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def set(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.values}
        os.environ.update(self.values)

    def restore(self) -> None:
        for name, value in self.before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
