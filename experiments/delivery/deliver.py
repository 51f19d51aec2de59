"""Fine-tunes, tests, exports and times the network of a search's plan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F

from amc_env import scoring
from amc_env.compressors.constraints import unconstrained
from amc_env.env import CompressionEnv
from amc_env.evaluator import logits
from amc_env.execution import CPU
from amc_env.graph.given import tensors
from amc_env.metrics import mean, per_image
from amc_env.plan import Plan
from amc_env.task import Task
from experiments.cli.config import plain
from experiments.cli.problem import Trained
from experiments.delivery.export import Called, Exported, called, export, write_onnx
from experiments.delivery.picture import draw
from experiments.delivery.promise import Promise, described, measured, probes_of, promises
from experiments.delivery.rehearsal import Deliverable, exportable
from experiments.delivery.runtimes import onnx_forward, torch_forward
from experiments.delivery.table import show
from experiments.delivery.timing import Latency, batches_of, measure
from experiments.recording import state as states
from experiments.recording.plans import counts, uniform
from experiments.recording.record import RunRecord, commit
from experiments.recording.tracking import Tracker
from experiments.training.finetune import STATE, UNIFORM_STATE, finetune
from experiments.training.recipe import Recipe

DENSE, UNIFORM, FOUND = "dense", "uniform", "AMC"
UNIFORM_TUNED, TUNED = "uniform, tuned", "AMC, tuned"
SPLITS = ("selection", "test")
PREDICTIONS = "predictions.png"


@dataclass(frozen=True)
class Row:
    """One network of the final table; accuracies in [0, 1], latencies by runtime and batch.

    ``agreement`` in [0, 1] and ``kl`` in nats are those with the dense network on the test split.
    ``counts`` is how many channels of each group it keeps.
    ``promise`` is there where the search had a latency table: what that says, and what was measured.
    """

    macs: int
    params: int
    file_bytes: int
    selection: float
    test: float
    agreement: float | None
    kl: float | None
    latency_ms: Mapping[str, list[Latency]]
    counts: Sequence[int]
    promise: Promise | None = None


@dataclass(frozen=True)
class Gain:
    """What the search brought: accuracy of AMC's network minus that of the uniform policy's, on one split.

    Both had the same repair and the same recipe. ``error`` is the standard error over ``images``, paired.
    """

    points: float
    error: float
    images: int
    tuned: bool


def deliver(
    cfg: DictConfig,
    subject: Trained,
    env: CompressionEnv,
    plan: Plan,
    record: RunRecord,
    tracker: Tracker,
    possible: Deliverable | None = None,
) -> None:
    """Fine-tune the uniform policy's network and the plan's, read the test split, export, time, show a table.

    With ``finetune.epochs=0``, or without class labels, nothing is trained, and the repaired networks are
    delivered. A metric of the user's own stands in the place of accuracy.

    Args:
        cfg: of the search.
        subject: the dense network and its data.
        env: whose search it was.
        plan: that was found.
        record: takes the table.
        tracker: likewise.
        possible: what the rehearsal found; None where there was none, as after a kill.
    """
    task = env.task
    plans = {DENSE: Plan.dense(env.graph), UNIFORM: uniform(env), FOUND: plan}
    networks = {DENSE: subject.model, **{name: task.network(plans[name]).eval() for name in (UNIFORM, FOUND)}}
    recipe = Recipe(**plain(cfg.finetune)) if cfg.finetune.epochs and task.tunable else None
    last = {UNIFORM: UNIFORM, FOUND: FOUND}
    if recipe is not None:
        last = {UNIFORM: UNIFORM_TUNED, FOUND: TUNED}
        for name, state in ((UNIFORM, UNIFORM_STATE), (FOUND, STATE)):
            plans[last[name]] = plans[name]
            if name == FOUND and plan == plans[UNIFORM]:  # the same network is not trained again
                networks[TUNED] = networks[UNIFORM_TUNED]
                continue
            networks[last[name]] = finetune(
                networks[name], subject.data, recipe, dense=subject.model, device=task.device, record=record,
                tracker=tracker, state=state,
            )  # fmt: skip
    networks = {name: unconstrained(network) for name, network in networks.items()}
    with record.phase("evaluate"):
        judged = {
            name: {split: judge(network, task, split) for split in SPLITS}
            for name, network in networks.items()
        }
    accuracies = {name: {split: found.top1 for split, found in both.items()} for name, both in judged.items()}
    agreed = {name: agreement(both["test"], judged[DENSE]["test"], task) for name, both in judged.items()}
    gain = gained(judged[last[FOUND]]["test"], judged[last[UNIFORM]]["test"], tuned=recipe is not None)
    with record.phase("export"):
        possible = possible or exportable(networks[last[FOUND]], task)
        card = replace(
            subject.card, plan=task.described(plan), keep_whole=list(env.graph.keep_whole),
            recipe=subject.card.recipe if recipe is None else asdict(recipe),
            accuracy={} if task.metric else accuracies[last[FOUND]], seed=cfg.seed, commit=commit(),
            note=f"compressed from the checkpoint {subject.card.sha256[:12]}",
            given=env.graph.given.to_dict() if env.graph.given.part else None,
        )  # fmt: skip
        images, _ = next(subject.data.batches("calibration", 64, 64))
        written = export(
            networks[last[FOUND]], card, record.folder / "compressed", images, part=possible.part,
            forms=possible.forms,
        )  # fmt: skip
    kept = {name: counts(env, each) for name, each in plans.items()}
    costs = {name: env.costs(each) for name, each in kept.items()}
    with record.phase("time"):
        shape = _shape(called(networks[DENSE], possible.part, images))
        modules = {name: network.get_submodule(possible.part) for name, network in networks.items()}
        timed = latencies(modules, last, written, record.folder, shape, batches_of(costs[DENSE]["macs"]))
        promised = kept_promises(modules, last, kept, task, written, record, shape)
    rows = {
        name: Row(
            macs=costs[name]["macs"],
            params=costs[name]["params"],
            file_bytes=len(safetensors.torch.save(_tensors(networks[name]))),
            selection=accuracies[name]["selection"],
            test=accuracies[name]["test"],
            agreement=agreed[name][0],
            kl=agreed[name][1],
            latency_ms=timed[name],
            counts=kept[name],
            promise=promised.get(name),
        )
        for name in (DENSE, UNIFORM, FOUND, *(last.values() if recipe is not None else ()))
    }
    record.update(results={"table": rows, "gain": gain, "onnx_difference": written.difference})
    tracker.summary(
        {f"{name}/{split}": value for name, row in accuracies.items() for split, value in row.items()}
    )
    tracker.artifact("compressed", "model", written.files, accuracies[last[FOUND]])
    if subject.data.name == "photos" and task.metric is None:
        shown = {name: judged[name]["test"].logits for name in (DENSE, last[UNIFORM], last[FOUND])}
        said = {name: found.argmax(1) for name, found in shown.items() if found is not None}
        draw(subject.data, said, record.folder / PREDICTIONS)
    for state in (UNIFORM_STATE, STATE):
        states.remove(record.folder / state)
    show(rows, gain, [*written.files, *_others(record.folder)])


@dataclass(frozen=True)
class Judged:
    """A network on one split: accuracy, or the metric in its place.

    Attributes:
        top1: of all images.
        std_error: of ``top1``.
        right: ``(N,)`` bool, whether it is right on each image; None for a metric.
        images: how many.
        logits: ``(N, classes)``; None for a metric.
    """

    top1: float
    std_error: float
    right: torch.Tensor | None
    images: int
    logits: torch.Tensor | None = None


def judge(network: nn.Module, task: Task, split: str) -> Judged:
    """Measure a network as the task does."""
    if task.metric is not None:
        found = scoring.score(network, task.metric, scoring.batches_of(task.data, split, CPU), split)
        return Judged(found.top1, found.std_error, None, found.n_images)
    answers = logits(network, task.data, split)
    right = answers.argmax(1) == task.data[split].labels
    top1 = int(right.sum()) / len(right)
    return Judged(top1, (top1 * (1 - top1) / len(right)) ** 0.5, right, len(right), answers)


def agreement(found: Judged, dense: Judged, task: Task) -> tuple[float | None, float | None]:
    """Share of the test images, in [0, 1], on which a network says what the dense one says, and their KL."""
    if found.logits is None or dense.logits is None:
        return None, None
    labels = task.data["test"].labels
    both = mean(per_image(found.logits, labels, F.log_softmax(dense.logits, dim=1)), "test")
    return both.agreement, both.kl


def gained(found: Judged, uniform: Judged, *, tuned: bool) -> Gain:
    """The difference in accuracy of two networks on the same images.

    Args:
        found: AMC's network.
        uniform: the uniform policy's.
        tuned: whether both were fine-tuned.
    """
    if found.right is None or uniform.right is None:
        error = math.hypot(found.std_error, uniform.std_error)
        return Gain(100 * (found.top1 - uniform.top1), 100 * error, found.images, tuned)
    difference = found.right.double() - uniform.right.double()
    error = float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else 0.0
    return Gain(100 * float(difference.mean()), 100 * error, len(difference), tuned)


def latencies(
    networks: Mapping[str, nn.Module],
    last: Mapping[str, str],
    written: Exported,
    folder: Path,
    shape: tuple[int, int, int] | None,
    batches: Sequence[int],
) -> dict[str, dict[str, list[Latency]]]:
    """The dense, uniform and found network under PyTorch and onnxruntime; fine-tuning changes no shape.

    Args:
        networks: what the exported files hold: networks, or parts of them.
        last: by name before fine-tuning, the name after it.
        written: the files of the network that was found; without an ONNX file that runtime is left out.
        folder: where the others' are written and deleted.
        shape: C, H, W of an input; None where there is more than one: nothing is timed then.
        batches: of images.
    """
    timed = {DENSE: networks[DENSE], UNIFORM: networks[last[UNIFORM]], FOUND: networks[last[FOUND]]}
    found: dict[str, dict[str, list[Latency]]] = {name: {} for name in timed}
    if shape is not None:
        eager = {name: torch_forward(network) for name, network in timed.items()}
        for name, taken in measure(eager, shape, batches=batches).items():
            found[name]["torch"] = taken
    if shape is not None and written.onnx is not None:
        files = {name: write_onnx(timed[name], shape, folder / f"{name}.onnx") for name in (DENSE, UNIFORM)}
        every = {FOUND: written.onnx, **files}
        forwards = {name: onnx_forward(every[name]) for name in timed}
        for name, taken in measure(forwards, shape, batches=batches).items():
            found[name]["onnx"] = taken
        for file in files.values():
            file.unlink()
    return found | {name: found[before] for before, name in last.items()}


def kept_promises(
    networks: Mapping[str, nn.Module],
    last: Mapping[str, str],
    kept: Mapping[str, Sequence[int]],
    task: Any,
    written: Exported,
    record: RunRecord,
    shape: tuple[int, int, int] | None,
) -> dict[str, Promise]:
    """What the latency table of a task promised, and what the same networks take when they are run whole.

    Args:
        networks: what the exported files hold.
        last: by name before fine-tuning, the name after it.
        kept: of each network the counts of channels.
        task: whose table it is; empty where it has none.
        written: the files of the network that was found.
        record: takes where the table and the measurement are from.
        shape: C, H, W of an input; None where there is more than one: nothing is measured then.
    """
    table = task.latency
    if table is None or shape is None or (table.conditions.runtime == "onnxruntime" and not written.onnx):
        return {}
    names = {DENSE: DENSE, **last}
    timed = {name: networks[name] for name in names.values()}
    files = {} if written.onnx is None else {last[FOUND]: written.onnx}
    probes = probes_of(timed, files, task.graph, table.conditions, record.folder)
    taken = measured(probes)
    found = promises(table, {name: kept[name] for name in taken}, taken)
    record.update(results={"latency": described(table, task.graph)})
    return found | {before: found[after] for before, after in names.items()}


def _shape(inside: Called) -> tuple[int, int, int] | None:
    """C, H, W of the only input of a call; None where there are others."""
    given = list(tensors((inside.args, inside.kwargs)))
    if len(given) != 1 or given[0].ndim != 4 or inside.kwargs:
        return None
    channels, height, width = given[0].shape[1:]
    return int(channels), int(height), int(width)


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _others(folder: Path) -> list[Path]:
    return [
        path
        for name in (PREDICTIONS, "plan.json", "record.json", "record.jsonl", "wandb")
        if (path := folder / name).exists()
    ]
