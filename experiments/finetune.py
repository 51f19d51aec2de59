"""Fine-tune the network of a search's plan: ``python -m experiments.finetune run=runs/NAME``."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from experiments.cli import config
from experiments.recording.record import RECORD, RunRecord, commit

if TYPE_CHECKING:  # torch takes seconds to import; a misspelt key is told before
    import torch
    from torch import nn

    from amc_env.data.splits import DataSet
    from experiments.recording.tracking import Tracker
    from experiments.training.recipe import Recipe

STATE = "finetune.state"
STEM = "compressed"  # name of the network's files in a run's folder


@config.main("finetune")
def main(cfg: DictConfig, folder: Path) -> None:
    """Train the plan's network anew from its refitted weights, and write it with its accuracies."""
    from amc_env import checkpoints as weights
    from amc_env.evaluator import accuracy
    from amc_env.plan import Plan
    from experiments.cli.problem import environment, trained
    from experiments.training.recipe import Recipe

    searched = OmegaConf.create(RunRecord.read(Path(cfg.run)).content["config"])
    assert isinstance(searched, DictConfig)
    asked, recipe = config.plain(cfg), Recipe(**config.plain(cfg.recipe))
    if (folder / RECORD).exists():
        record = RunRecord.resume(folder, asked, episodes=0)  # the state's epochs come in again
    else:
        record = RunRecord.create(folder, asked, seeds={"batches": recipe.seed})
    with record, config.instantiate(cfg.tracking, folder=folder, config=asked) as tracker:
        subject = trained(searched)
        env = environment(searched, subject)
        plan = Plan.read(Path(cfg.run) / "plan.json")
        network = env.task.network(plan)
        tuned = finetune(
            network, subject.data, recipe, device=env.task.device, record=record, tracker=tracker
        )
        measured = {split: accuracy(tuned, subject.data, split) for split in ("selection", "test")}
        card = replace(
            subject.card, plan=plan.to_dict(), recipe=asdict(recipe), accuracy=measured, seed=recipe.seed,
            commit=commit(), note=f"compressed from the checkpoint {subject.card.sha256[:12]}",
        )  # fmt: skip
        weights.save(folder / STEM, tuned, card)
        record.update(results={"accuracy": measured})
    print(", ".join(f"{split} {top1:.2%}" for split, top1 in measured.items()))
    print(f"written: {folder / STEM}.safetensors and .json")


def finetune(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    device: torch.device,
    record: RunRecord,
    tracker: Tracker,
) -> nn.Module:
    """A trained copy of a cut network; the last weights count, no epoch is picked by its accuracy.

    Args:
        network: physically small, with its batch norms.
        data: the train split is learnt from.
        recipe: how; a cosine schedule without warm-up is usual.
        device: where to; the copy comes back to the CPU.
        record: of the run; a killed fine-tuning goes on from the state in its folder.
        tracker: of the run.
    """
    from experiments.training.fitting import fit

    tuned = copy.deepcopy(network)
    state = record.folder / STATE
    fit(
        tuned, data, recipe, device=device, state=state, record=record, tracker=tracker, phase="finetune",
    )  # fmt: skip
    state.unlink(missing_ok=True)
    return tuned.cpu().eval()


if __name__ == "__main__":
    main()
