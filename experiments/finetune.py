"""Fine-tune a compressed network: ``python -m experiments.finetune run=runs/...``."""

import copy
from pathlib import Path

from torch import nn

from amc_env.data import DataSet
from experiments.fitting import fit
from experiments.recipe import Recipe
from experiments.record import RunRecord
from experiments.tracking import Tracker

STATE = "finetune.state"


def finetune(
    network: nn.Module, data: DataSet, recipe: Recipe, *, record: RunRecord, tracker: Tracker
) -> nn.Module:
    """A trained copy of a cut network; the last weights count, no epoch is picked by its accuracy.

    Args:
        network: physically small, with its batch norms.
        data: the train split is learnt from.
        recipe: how; a cosine schedule without warm-up is usual.
        record: of the run; a killed fine-tuning goes on from the state in its folder.
        tracker: of the run.
    """
    tuned = copy.deepcopy(network)
    fit(tuned, data, recipe, state=record.folder / STATE, record=record, tracker=tracker, phase="finetune")
    (record.folder / STATE).unlink(missing_ok=True)
    return tuned.eval()
