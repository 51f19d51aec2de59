"""Training inside a run: shows progress and writes a row an epoch to record and tracker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from amc_env.checks import number_of
from amc_env.data.splits import DataSet
from experiments.recording import opening
from experiments.recording.progress import Meter
from experiments.recording.record import ELSEWHERE, RECORD, RecordError, RunRecord
from experiments.recording.tracking import Tracker
from experiments.training.loop import Epoch, read_history, train
from experiments.training.recipe import Recipe
from experiments.training.steps import steps_an_epoch


def opened(
    folder: Path, settings: Mapping[str, Any], *, seeds: Mapping[str, int], states: Sequence[str]
) -> RunRecord:
    """The record of a training in a folder: a new one, or one that `fit` continues from its states.

    Args:
        folder: of the run.
        settings: the command's configuration.
        seeds: each by what it draws.
        states: names of the files with states.

    Raises:
        RecordError: if the record has other settings, or epochs without a state to resume from. A finished
            one needs none: its files are made again.
    """
    if (folder / RECORD).exists() and (record := RunRecord.read(folder)).content["status"] != "finished":
        past = sum(len(read_history(folder / state, _of(record, folder / state))) for state in states)
        if past < len(record.rows) - 1 or (record.rows and not past):  # the state before the last is kept
            raise RecordError(
                f"{folder} has {number_of(len(record.rows), 'epoch')}, and {' and '.join(states)} are "
                f"missing or behind them; {ELSEWHERE}"
            )
    return opening.opened(folder, settings, seeds=seeds, rows=0)  # the states' epochs come in again


def _of(record: RunRecord, state: Path) -> str:
    """The name of the training that a state belongs to."""
    return f"{record.chain[0]}/{state.name}"


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    device: torch.device,
    state: Path,
    record: RunRecord,
    tracker: Tracker,
    phase: str,
    name: str = "train",
    teacher: nn.Module | None = None,
    console: Console | None = None,
) -> list[Epoch]:
    """Train in place, with one row an epoch; see `experiments.training.loop.train`.

    Trainings of one name in a record are rounds of one: their epochs are numbered on.

    Args:
        model: trained in place.
        data: trained on its train split.
        recipe: the training recipe.
        device: where to train.
        state: the file that a killed training resumes from; its epochs are written to the record again. It
            belongs to the record.
        record: gets a row an epoch, and the seconds.
        tracker: gets the same.
        phase: the name under which the record counts the seconds.
        name: before the rows' metrics, see `experiments.recording.tracking.METRICS`.
        teacher: of a recipe that distills.
        console: where the bar is shown.
    """

    def note(epoch: Epoch) -> None:
        at = sum(f"{name}/epoch" in row for row in record.rows)
        row = {f"{name}/epoch": at, f"{name}/loss": epoch.loss, f"{name}/selection": epoch.selection}
        record.add(**row)
        tracker.log(row)

    of = _of(record, state)
    past = read_history(state, of)
    for epoch in past:
        note(epoch)
    steps = steps_an_epoch(len(data["train"]), recipe.batch_size)
    with (
        record.phase(phase),
        Meter("steps", recipe.epochs * steps, done=len(past) * steps, console=console) as meter,
    ):
        if past:
            meter.say(f"going on after epoch {past[-1].epoch} of {state}")

        def on_epoch(epoch: Epoch) -> None:
            note(epoch)
            meter.say(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, selection {epoch.selection:.2%}")

        return train(
            model,
            data,
            recipe,
            device=device,
            teacher=teacher,
            state=state,
            of=of,
            on_step=lambda step, _, loss: meter.update(step, loss=loss),
            on_epoch=on_epoch,
        )
