"""From a search's plan to the network that a user holds: fine-tuned, tested, exported, timed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from omegaconf import DictConfig
from torch import nn

from amc_env.cost import mask_widths
from amc_env.env import CompressionEnv
from amc_env.evaluator import accuracy
from amc_env.graph.trace import verify
from amc_env.plan import Plan
from experiments.cli.config import plain
from experiments.cli.problem import Trained
from experiments.delivery.export import Exported, export, write_onnx
from experiments.delivery.runtimes import onnx_forward, torch_forward
from experiments.delivery.table import show
from experiments.delivery.timing import Latency, measure
from experiments.recording.plans import uniform
from experiments.recording.record import RunRecord, commit
from experiments.recording.tracking import Tracker
from experiments.training.finetune import finetune
from experiments.training.recipe import Recipe

DENSE, UNIFORM, FOUND, TUNED = "dense", "uniform", "AMC", "AMC, tuned"


@dataclass(frozen=True)
class Row:
    """One network of the final table; accuracies in [0, 1], latencies by runtime and batch."""

    macs: int
    params: int
    file_bytes: int
    selection: float
    test: float
    latency_ms: Mapping[str, list[Latency]]


def deliver(
    cfg: DictConfig, subject: Trained, env: CompressionEnv, plan: Plan, record: RunRecord, tracker: Tracker
) -> None:
    """Fine-tune the plan's network, read the test split, export, time, and show the table of all that."""
    networks = {
        DENSE: subject.model,
        UNIFORM: env.task.network(uniform(env)).eval(),
        FOUND: env.task.network(plan).eval(),
    }
    verify(networks[FOUND], env.graph, env.graph.mask(plan.kept))
    recipe = Recipe(**plain(cfg.finetune))
    networks[TUNED] = finetune(
        networks[FOUND], subject.data, recipe, device=env.task.device, record=record, tracker=tracker
    )
    with record.phase("evaluate"):
        accuracies = {
            name: {split: accuracy(network, subject.data, split) for split in ("selection", "test")}
            for name, network in networks.items()
        }
    with record.phase("export"):
        card = replace(
            subject.card, plan=plan.to_dict(), recipe=asdict(recipe), accuracy=accuracies[TUNED],
            seed=cfg.seed, commit=commit(), note=f"compressed from the checkpoint {subject.card.sha256[:12]}",
        )  # fmt: skip
        images, _ = next(subject.data.batches("calibration", 64))
        written = export(networks[TUNED], card, record.folder / "compressed", images)
    with record.phase("time"):
        timed = latencies(networks, written, record.folder, subject.data.shape)
    rows = {
        name: Row(
            **_costs(env, {DENSE: Plan.dense(env.graph), UNIFORM: uniform(env)}.get(name, plan)),
            file_bytes=len(safetensors.torch.save(_tensors(network))),
            selection=accuracies[name]["selection"],
            test=accuracies[name]["test"],
            latency_ms=timed[name],
        )
        for name, network in networks.items()
    }
    record.update(results={"table": rows, "onnx_difference": written.difference})
    tracker.summary(
        {f"{name}/{split}": value for name, row in accuracies.items() for split, value in row.items()}
    )
    tracker.artifact("compressed", "model", written.files, accuracies[TUNED])
    show(rows, [*written.files, *_others(record.folder)])


def latencies(
    networks: Mapping[str, nn.Module], written: Exported, folder: Path, shape: tuple[int, int, int]
) -> dict[str, dict[str, list[Latency]]]:
    """Each network under PyTorch and onnxruntime; fine-tuning changes no shape."""
    shapes = {name: network for name, network in networks.items() if name != FOUND}
    files = {TUNED: written.onnx}
    for name in (DENSE, UNIFORM):
        files[name] = write_onnx(networks[name], shape, folder / f"{name}.onnx")
    eager = measure({name: torch_forward(network) for name, network in shapes.items()}, shape)
    onnx = measure({name: onnx_forward(file) for name, file in files.items()}, shape)
    found = {name: {"torch": eager[name], "onnx": onnx[name]} for name in shapes}
    for name in (DENSE, UNIFORM):
        files[name].unlink()
    return found | {FOUND: found[TUNED]}


def _costs(env: CompressionEnv, plan: Plan) -> dict[str, int]:
    widths = mask_widths(env.graph, env.graph.mask(plan.kept))
    return {"macs": int(env.macs(widths)), "params": int(env.params(widths))}


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _others(folder: Path) -> list[Path]:
    return [
        path
        for name in ("plan.json", "record.json", "record.jsonl", "wandb")
        if (path := folder / name).exists()
    ]
