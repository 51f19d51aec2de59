"""The runs of a sweep: their folders, which are unfinished, and how they ended."""

from __future__ import annotations

import copy
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from amc_env.checks import number_of
from amc_env.plan import PlanError
from experiments.cli import preflight
from experiments.cli.checking import check_settings
from experiments.cli.exits import BusyRunError, RunError
from experiments.cli.record_config import of_record
from experiments.recording.lock import alone
from experiments.recording.record import RECORD, RecordError, RunRecord

ENDS_OTHERS = ("TerminatedWorkerError", "WorkerCrashedError", "OutOfMemoryError")  # of joblib; of Ray
LONGEST = 120  # characters of a folder's name; file systems take 255 bytes


class SweepError(RuntimeError):
    """A sweep with two runs of one folder, or with failed runs."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep: its overrides as typed, its folder and its configuration."""

    overrides: tuple[str, ...]
    folder: Path
    config: DictConfig

    @classmethod
    def of(cls, overrides: Sequence[str], composed: DictConfig) -> Run:
        """A run from its composed configuration, with Hydra's node.

        Raises:
            ConfigError: for a configuration that cannot be run, so that no run of the sweep starts.
        """
        folder = Path(composed.hydra.sweep.dir) / folder_name(composed.hydra.sweep.subdir)
        task = copy.deepcopy(composed)
        with open_dict(task):
            del task["hydra"]
        check_settings(task)
        preflight.check(task)
        return cls(tuple(overrides), folder, task)

    @property
    def job(self) -> list[str]:
        """The overrides for a launcher, with an absolute folder for processes that start elsewhere."""
        parent = str(self.folder.parent.absolute()).replace("'", r"\'")
        return [*self.overrides, f"hydra.sweep.dir='{parent}'", f"hydra.sweep.subdir='{self.folder.name}'"]

    @property
    def finished(self) -> bool:
        """Whether the folder holds the finished record of this configuration, and the files of the run."""
        if not (self.folder / RECORD).exists():
            return False
        try:
            record = RunRecord.read(self.folder)
            record.check(of_record(self.config, self.folder))
        except (RecordError, PlanError):
            return False  # the run itself will say why
        return record.content["status"] == "finished" and not record.missing

    def __str__(self) -> str:
        return " ".join(word for word in self.overrides if not word.startswith("output="))


def folder_name(wanted: str) -> str:
    """A folder's name that every file system accepts, the same for the same overrides."""
    name = re.sub(r"[^\w.,=+~-]+", "_", wanted, flags=re.ASCII) or "defaults"
    if len(name) <= LONGEST and wanted.isascii():  # other letters all become one
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def finish(runs: Sequence[Run], launcher: Launcher) -> None:
    """Launch the unfinished runs, wait for them, and report how they ended.

    Raises:
        SweepError: if two runs share a folder; at the end, if runs failed, with their messages.
    """
    folders = [run.folder for run in runs]
    if shared := [run for run in runs if folders.count(run.folder) > 1]:
        raise SweepError(f"these runs would share a folder: {'; '.join(map(str, shared))}")
    left = [run for run in runs if not run.finished]
    parents = ", ".join(sorted({str(folder.parent) for folder in folders}))
    every = number_of(len(runs), "run")
    print(f"{every} in {parents}: {len(runs) - len(left)} finished, {len(left)} left to do")
    if not left:
        print("nothing is left to do in this sweep; choose another output=FOLDER to run it again")
        return
    failed: dict[Run, str] = {}
    while left:
        ended = launch(left, launcher)
        busy = [run for run in left if isinstance(ended.get(run), BusyRunError)]
        failed |= {run: str(error) for run, error in ended.items() if run not in busy}
        left = others(busy)
    if failed:
        lines = [f"  {run}: {message}" for run, message in failed.items()]
        head = f"{len(failed)} of {every} failed; the same command goes on with what is left"
        raise SweepError("\n".join([head, *lines]))
    print(f"finished, {every}: {parents}")


def others(busy: Sequence[Run]) -> list[Run]:
    """Wait for runs that other processes have locked; returns those that are still unfinished."""
    if busy:
        print(
            f"another process is at work in {number_of(len(busy), 'run')}: waiting for the end of {busy[0]}"
        )
        with alone(busy[0].folder, wait=True):
            pass
    return [run for run in busy if not run.finished]


def launch(runs: Sequence[Run], launcher: Launcher) -> dict[Run, Exception]:
    """Launch runs and wait; returns failed runs with their errors.

    A killed process ends the launch, with joblib and Ray also the other runs. The rest is launched again in
    two halves, until the run that kills its process is alone.
    """
    try:
        returns = launcher.launch([run.job for run in runs], initial_job_idx=0)
    except Exception as error:
        kind = type(error).__name__
        print(f"the launcher stopped, other runs may still be at work: {kind}: {error}", file=sys.stderr)
        left = [run for run in runs if not run.finished]
        if kind not in ENDS_OTHERS or len(left) < 2:
            return dict.fromkeys(left, RunError(f"not finished when the launcher stopped ({kind})"))
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        half = len(left) // 2
        return launch(left[:half], launcher) | launch(left[half:], launcher)
    pairs = zip(runs, returns, strict=True)
    return {run: done._return_value for run, done in pairs if done.status != JobStatus.COMPLETED}
