"""The job of `experiments.survey`: networks by name, cut by random plans, counted, exported and compared.

Weights are random, so this does not measure how well a network is compressed, only that the cut network is
correct. Each row of the record is one network; a killed run continues with the networks that have none.
"""

import contextlib
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc_env import zoo
from amc_env.compressors.surgery import cut
from amc_env.compressors.trial import check, random_plan, try_cut
from amc_env.cost import Macs, Params, mask_widths
from amc_env.execution import evaluating
from amc_env.graph.labels import TraceError
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.zoo.external import torchvision_names
from experiments.analysis import survey
from experiments.cli import config
from experiments.delivery.export import ExportError, agree, write_onnx
from experiments.delivery.runtimes import onnx_run
from experiments.recording.opening import opened
from experiments.recording.progress import Meter

FOLDERS = re.compile(r"/(?:[^/\s:]+/)+(?=[^/\s:]+:\d)")  # before the name of a file with a line
FAMILIES = Path(__file__).with_name("timm_families.txt")
SIDES = (64, 96, 224)  # pixels: the smallest that a network takes
CLASSES = 10


def main(cfg: DictConfig, folder: Path) -> None:
    """Examine every network and print the table."""
    names = list(dict.fromkeys(name for asked in cfg.models for name in listed(asked)))
    for name in names:
        zoo.check_name(name)
    record = opened(folder, config.plain(cfg), seeds={"weights": 0, "plans": 0})
    with record:
        done = {row["network"] for row in record.rows}
        with record.phase("networks"), Meter("networks", len(names), done=len(done)) as meter:
            for name in names:
                if name not in done:
                    record.add(network=name, **examine(built(name), cfg.plans))
                    meter.update(len(record.rows))
        print(survey.table(record.rows))


def listed(asked: str) -> list[str]:
    """The networks that a name stands for: one network, or all of a library."""
    if asked == "torchvision":
        return [f"{zoo.TORCHVISION}{name}" for name in torchvision_names()]
    return FAMILIES.read_text().split() if asked == "timm" else [asked]


def built(name: str) -> nn.Module:
    """A network with random weights and random statistics of batch norm."""
    model = zoo.build(name, classes=CLASSES, in_channels=3)
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def examine(model: nn.Module, plans: int) -> dict[str, Any]:
    """Cut, count and export one network.

    Args:
        model: in evaluation mode, for images of three channels.
        plans: how many random ones cut it.

    Returns:
        ``refused`` with the message if it cannot be cut. Else ``apart``, the largest difference between a
        cut network and the masked one; ``equal``, whether MACs and parameters match an independent count;
        ``trace_seconds`` of processor time; and ``onnx``, the difference of the exported network, or
        ``unwritten`` with the message.
    """
    side = smallest(model)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    start = time.process_time()
    try:
        graph = trace(model, (3, side, side))
        seconds = time.process_time() - start
        try_cut(model, graph)
        drawn = [random_plan(graph, seed) for seed in range(plans)]
        apart = max(check(model, graph, plan, images) for plan in drawn)
    except TraceError as error:
        return {"side": side, "refused": line(error)}
    small = [cut(model, graph, plan).eval() for plan in drawn]
    equal = all(counted(graph, plan, network, images[:1]) for plan, network in zip(drawn, small, strict=True))
    facts = {"side": side, "layers": len(graph.layers), "groups": len(graph.groups), "apart": apart}
    return {**facts, "equal": equal, "trace_seconds": round(seconds, 3), **exported(small[0], images)}


def smallest(model: nn.Module) -> int:
    """The first of `SIDES` that a network accepts, else the last one."""
    for side in SIDES:
        with contextlib.suppress(zoo.ModelError):
            zoo.check(model, (3, side, side), CLASSES)
            return side
    return SIDES[-1]


def counted(graph: Graph, plan: Plan, network: nn.Module, image: torch.Tensor) -> bool:
    """Whether a cut network's MACs match PyTorch's count, and its parameters those that it holds."""
    widths = mask_widths(graph, graph.mask(plan.kept))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    held = sum(parameter.numel() for parameter in network.parameters())
    macs, params = int(Macs(graph)(widths)), int(Params(graph)(widths))
    return (2 * macs, params) == (counter.get_total_flops(), held)


def exported(network: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """The difference between onnxruntime and PyTorch relative to the largest output, or why there is none."""
    try:
        with TemporaryDirectory() as folder, evaluating(network):
            path = write_onnx(network, tuple(images.shape[1:]), Path(folder) / "network.onnx")
            return {"onnx": agree(onnx_run(path, [images]), network(images), path)}
    except ExportError as error:
        return {"unwritten": line(error)}


def line(error: Exception) -> str:
    """A message in one line, with files named without the folders of this machine."""
    return FOLDERS.sub("", " ".join(str(error).split()))
