"""Trackio as a view of a run's record: local first, all runs of a machine in one SQLite file.

``TRACKIO_DIR`` is the folder of that file, by default ``runs/trackio``; ``trackio show`` reads it too.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ.setdefault("TRACKIO_DIR", str(Path("runs/trackio").absolute()))

import trackio

from experiments.recording import invocation


def _name(folder: Path) -> str:
    """A folder's path below ``runs``, else below the current folder, else from the root."""
    path = folder.absolute()
    above = [each for each in (Path("runs").absolute(), Path.cwd()) if path.is_relative_to(each)]
    return str(path.relative_to(above[0]) if above else path)


def _remove(project: str, name: str) -> None:
    """Remove the runs of a name."""
    try:
        known = trackio.Api().runs(project)
    except ValueError:  # there is no such project yet
        return
    for run in known:
        if run.name == name:
            run.delete()


class TrackioTracker:
    """Logs to Trackio; nothing leaves the machine.

    Args:
        folder: the run's folder, which names the run; an earlier run of this name is replaced.
        config: the resolved configuration, as plain data.
        project: name of the project.
        group: runs that Trackio shows together; None: as `invocation.group` says.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, project: str = "amc-rl", group: str | None = None
    ) -> None:
        self.name, self.config, self.project = _name(folder), dict(config), project
        self.group = group or invocation.group(config)

    def __enter__(self) -> Self:
        _remove(self.project, self.name)  # of a process before this one: its rows are logged again
        self.run = trackio.init(
            project=self.project, name=self.name, group=self.group, config=self.config,
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        return self

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row of the history."""
        self.run.log(dict(metrics))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log final values as a last row of numbers, below ``final``."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        self.run.log({f"final/{name}": value for name, value in numbers.items()})

    def artifact(self, name: str, kind: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Log files as one artifact; they are copied."""
        artifact = trackio.Artifact(name, type=kind, metadata=dict(facts))
        for path in files:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run.finish()
