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


class TrackioTracker:
    """Logs to Trackio; nothing leaves the machine.

    Args:
        folder: the run's folder, which names the run.
        config: the resolved configuration, as plain data.
        project: name of the project.
        group: runs that Trackio shows together; None: as `invocation.group` says.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, project: str = "amc-rl", group: str | None = None
    ) -> None:
        self.name, self.config, self.project = folder.absolute().name, dict(config), project
        self.group = group or invocation.group(config)

    def __enter__(self) -> Self:
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
