"""Fine-tunes, tests, exports and times the network of a search's plan."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from omegaconf import DictConfig
from torch import nn

from agents.rules import Rule
from amc_env.compressors import plan_of
from amc_env.compressors.constraints import unconstrained
from amc_env.data.splits import REPORTED
from amc_env.env import CompressionEnv
from amc_env.plan import Plan
from experiments.cli.config import plain
from experiments.cli.trained import Trained
from experiments.delivery.export import Exported, called, export
from experiments.delivery.judging import Judged, agreement, gained, judge
from experiments.delivery.picture import draw
from experiments.delivery.rehearsal import Deliverable, exportable
from experiments.delivery.speed import kept_promises, latencies, shape_of
from experiments.delivery.table import Row, show
from experiments.delivery.timing import batches_of
from experiments.recording import state as states
from experiments.recording.networks import DENSE, FOUND, UNIFORM, after_tuning
from experiments.recording.plans import counts
from experiments.recording.record import RunRecord
from experiments.recording.tracking import Tracker
from experiments.training.finetune import STATE, UNIFORM_STATE, card_of, finetune
from experiments.training.loop import DivergedError
from experiments.training.plan_sets import by_rule
from experiments.training.recipe import Recipe

PREDICTIONS = "predictions.png"

Results = Mapping[str, Mapping[str, Judged]]  # by network, then by split


@dataclass(frozen=True)
class Entrants:
    """The networks of the final table and their plans, by name.

    Attributes:
        plans: of each network.
        networks: repaired, and fine-tuned where the search asks for it.
        last: from `UNIFORM` and `FOUND` to the names of their final networks.
    """

    plans: dict[str, Plan]
    networks: dict[str, nn.Module]
    last: dict[str, str]

    @property
    def found(self) -> nn.Module:
        """The network that is delivered."""
        return self.networks[self.last[FOUND]]


def deliver(
    cfg: DictConfig,
    original: Trained,
    env: CompressionEnv,
    plan: Plan,
    record: RunRecord,
    tracker: Tracker,
    possible: Deliverable | None = None,
) -> None:
    """Fine-tune the uniform policy's network and the plan's, read the test split, export, time, show a table.

    With ``finetune.epochs=0``, or without class labels, nothing is trained, and the repaired networks are
    delivered. A user's metric replaces accuracy.

    Args:
        cfg: of the search.
        original: the dense network and its data.
        env: the environment that was searched.
        plan: that was found.
        record: gets the table.
        tracker: likewise.
        possible: what the rehearsal found; None without one, as after a kill.
    """
    task = env.task
    recipe = Recipe(**plain(cfg.finetune)) if cfg.finetune.epochs and task.tunable else None
    entrants = _entrants(original, env, plan, recipe, record, tracker)
    with record.phase("evaluate"):
        judged = {
            name: {split: judge(network, task, split) for split in REPORTED}
            for name, network in entrants.networks.items()
        }
    with record.phase("export"):
        possible = possible or exportable(entrants.found, task)
        accuracy = {split: found.top1 for split, found in judged[entrants.last[FOUND]].items()}
        card = card_of(original, env, plan, {} if task.metric else accuracy, recipe, cfg.seed)
        images, _ = next(original.data.batches("calibration", 64, 64))
        written = export(
            entrants.found, card, record.folder / "compressed", images, part=possible.part,
            forms=possible.forms,
        )  # fmt: skip
    with record.phase("time"):
        shape = shape_of(called(entrants.networks[DENSE], possible.part, images))
        rows = _rows(env, entrants, judged, possible.part, written, record, shape)
    found, other = (judged[entrants.last[name]]["test"] for name in (FOUND, UNIFORM))
    gain = gained(found, other, tuned=recipe is not None)
    record.update(results={"table": rows, "gain": gain, "onnx_difference": written.difference})
    tracker.summary(
        {f"{name}/{split}": getattr(row, split) for name, row in rows.items() for split in REPORTED}
    )
    record.wrote(*written.files)
    tracker.artifact("compressed", "model", written.files, accuracy)
    if original.data.name == "photos" and task.metric is None:
        shown = {name: judged[name]["test"].logits for name in (DENSE, *entrants.last.values())}
        said = {name: one.argmax(1) for name, one in shown.items() if one is not None}
        draw(original.data, said, record.folder / PREDICTIONS)
    for state in (UNIFORM_STATE, STATE):
        states.remove(record.folder / state)
    show(rows, gain, [*written.files, *_others(record.folder)])


def _entrants(
    original: Trained,
    env: CompressionEnv,
    plan: Plan,
    recipe: Recipe | None,
    record: RunRecord,
    tracker: Tracker,
) -> Entrants:
    """The networks of the final table; without a recipe none is fine-tuned."""
    uniform = plan_of(env.compressor, by_rule(env.budget, Rule()))
    plans = {DENSE: Plan.dense(env.graph), UNIFORM: uniform, FOUND: plan}
    networks = {name: env.task.network(plans[name]).eval() for name in (UNIFORM, FOUND)}
    networks, last = {DENSE: original.model, **networks}, {UNIFORM: UNIFORM, FOUND: FOUND}
    if recipe is not None:
        last = {name: after_tuning(name) for name in last}
        for name, state, rows in ((UNIFORM, UNIFORM_STATE, "uniform"), (FOUND, STATE, "train")):
            plans[last[name]] = plans[name]
            if name == FOUND and plan == plans[UNIFORM]:  # the same network is not trained again
                networks[last[FOUND]] = networks[last[UNIFORM]]
                continue
            try:
                networks[last[name]] = finetune(
                    networks[name], original.data, recipe, dense=original.model, device=env.task.device,
                    record=record, tracker=tracker, state=state, name=rows,
                )  # fmt: skip
            except DivergedError as error:
                run = shlex.quote(f"run={record.folder}")
                again = f"python -m experiments.finetune {run} recipe.lr={recipe.lr / 10:g}"
                raise DivergedError(f"{error}; the plan is kept, no search is needed: {again}") from error
    return Entrants(plans, {name: unconstrained(network) for name, network in networks.items()}, last)


def _rows(
    env: CompressionEnv,
    entrants: Entrants,
    judged: Results,
    part: str,
    written: Exported,
    record: RunRecord,
    shape: tuple[int, int, int] | None,
) -> dict[str, Row]:
    """Times the networks and puts everything that was measured side by side."""
    kept = {name: counts(env, plan) for name, plan in entrants.plans.items()}
    costs = {name: env.costs(each) for name, each in kept.items()}
    modules = {name: network.get_submodule(part) for name, network in entrants.networks.items()}
    batches = batches_of(costs[DENSE]["macs"])
    timed = latencies(modules, entrants.last, written, record.folder, shape, batches)
    promised = kept_promises(modules, entrants.last, kept, env.task, written, record, shape)
    rows = {}
    for name, network in entrants.networks.items():
        agreed, kl = agreement(judged[name]["test"], judged[DENSE]["test"], env.task)
        rows[name] = Row(
            macs=costs[name]["macs"],
            params=costs[name]["params"],
            file_bytes=_bytes(network),
            selection=judged[name]["selection"].top1,
            test=judged[name]["test"].top1,
            agreement=agreed,
            kl=kl,
            latency_ms=timed[name],
            counts=kept[name],
            promise=promised.get(name),
            bits=costs[name].get("bits"),
        )
    return rows


def _bytes(network: nn.Module) -> int:
    """The size of a network's weights in a safetensors file."""
    tensors = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    return len(safetensors.torch.save(tensors))


def _others(folder: Path) -> list[Path]:
    return [
        path
        for name in (PREDICTIONS, "plan.json", "record.json", "record.jsonl", "wandb")
        if (path := folder / name).exists()
    ]
