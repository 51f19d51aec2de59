"""Fine-tunes, tests, exports and times the network of a search's plan."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from omegaconf import DictConfig
from torch import nn

from amc_env.compressors.constraints import unconstrained
from amc_env.env import CompressionEnv
from amc_env.evaluator import hits
from amc_env.plan import Plan
from experiments.cli.config import plain
from experiments.cli.problem import Trained
from experiments.delivery.export import Exported, export, write_onnx
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


@dataclass(frozen=True)
class Row:
    """One network of the final table; accuracies in [0, 1], latencies by runtime and batch."""

    macs: int
    params: int
    file_bytes: int
    selection: float
    test: float
    latency_ms: Mapping[str, list[Latency]]


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
    cfg: DictConfig, subject: Trained, env: CompressionEnv, plan: Plan, record: RunRecord, tracker: Tracker
) -> None:
    """Fine-tune the uniform policy's network and the plan's, read the test split, export, time, show a table.

    With ``finetune.epochs=0`` nothing is trained, and the repaired networks are what is delivered.
    """
    task = env.task
    plans = {DENSE: Plan.dense(env.graph), UNIFORM: uniform(env), FOUND: plan}
    networks = {DENSE: subject.model, **{name: task.network(plans[name]).eval() for name in (UNIFORM, FOUND)}}
    recipe = Recipe(**plain(cfg.finetune)) if cfg.finetune.epochs else None
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
        right = {
            name: {split: hits(network, subject.data, split) for split in SPLITS}
            for name, network in networks.items()
        }
    accuracies = {
        name: {split: int(found.sum()) / len(found) for split, found in both.items()}
        for name, both in right.items()
    }
    gain = gained(right[last[FOUND]]["test"], right[last[UNIFORM]]["test"], tuned=recipe is not None)
    with record.phase("export"):
        card = replace(
            subject.card, plan=task.described(plan), keep_whole=list(env.graph.keep_whole),
            recipe=subject.card.recipe if recipe is None else asdict(recipe),
            accuracy=accuracies[last[FOUND]], seed=cfg.seed, commit=commit(),
            note=f"compressed from the checkpoint {subject.card.sha256[:12]}",
        )  # fmt: skip
        images, _ = next(subject.data.batches("calibration", 64))
        written = export(networks[last[FOUND]], card, record.folder / "compressed", images)
    costs = {name: env.costs(counts(env, each)) for name, each in plans.items()}
    with record.phase("time"):
        timed = latencies(
            networks, last, written, record.folder, subject.data.shape, batches_of(costs[DENSE]["macs"])
        )
    rows = {
        name: Row(
            macs=costs[name]["macs"],
            params=costs[name]["params"],
            file_bytes=len(safetensors.torch.save(_tensors(networks[name]))),
            selection=accuracies[name]["selection"],
            test=accuracies[name]["test"],
            latency_ms=timed[name],
        )
        for name in (DENSE, UNIFORM, FOUND, *(last.values() if recipe is not None else ()))
    }
    record.update(results={"table": rows, "gain": gain, "onnx_difference": written.difference})
    tracker.summary(
        {f"{name}/{split}": value for name, row in accuracies.items() for split, value in row.items()}
    )
    tracker.artifact("compressed", "model", written.files, accuracies[last[FOUND]])
    for state in (UNIFORM_STATE, STATE):
        states.remove(record.folder / state)
    show(rows, gain, [*written.files, *_others(record.folder)])


def gained(found: torch.Tensor, uniform: torch.Tensor, *, tuned: bool) -> Gain:
    """The difference in accuracy of two networks on the same images.

    Args:
        found: ``(N,)`` bool, whether AMC's network is right on each image.
        uniform: ``(N,)`` bool, the same of the uniform policy's.
        tuned: whether both were fine-tuned.
    """
    difference = found.double() - uniform.double()
    error = float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else 0.0
    return Gain(100 * float(difference.mean()), 100 * error, len(difference), tuned)


def latencies(
    networks: Mapping[str, nn.Module],
    last: Mapping[str, str],
    written: Exported,
    folder: Path,
    shape: tuple[int, int, int],
    batches: Sequence[int],
) -> dict[str, dict[str, list[Latency]]]:
    """The dense, uniform and found network under PyTorch and onnxruntime; fine-tuning changes no shape."""
    timed = {DENSE: networks[DENSE], UNIFORM: networks[last[UNIFORM]], FOUND: networks[last[FOUND]]}
    files = {FOUND: written.onnx}
    for name in (DENSE, UNIFORM):
        files[name] = write_onnx(timed[name], shape, folder / f"{name}.onnx")
    eager = measure({name: torch_forward(network) for name, network in timed.items()}, shape, batches=batches)
    onnx = measure({name: onnx_forward(file) for name, file in files.items()}, shape, batches=batches)
    for name in (DENSE, UNIFORM):
        files[name].unlink()
    found = {name: {"torch": eager[name], "onnx": onnx[name]} for name in timed}
    return found | {name: found[before] for before, name in last.items()}


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _others(folder: Path) -> list[Path]:
    return [
        path
        for name in ("plan.json", "record.json", "record.jsonl", "wandb")
        if (path := folder / name).exists()
    ]
