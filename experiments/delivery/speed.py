"""Times the networks that a search ends with, and compares them with the latency table's promise."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.delivery.export import Called, Exported, write_onnx
from experiments.delivery.promise import Promise, described, measured, probes_of, promises
from experiments.delivery.runtimes import onnx_forward, torch_forward
from experiments.delivery.timing import Latency, measure
from experiments.recording.networks import DENSE, FOUND, UNIFORM
from experiments.recording.record import RunRecord


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
        networks: the networks, or the parts of them, in the exported files.
        last: by name before fine-tuning, the name after it.
        written: the files of the network that was found; without an ONNX file that runtime is left out.
        folder: where the others' are written and deleted.
        shape: C, H, W of the input; None if there are several: then nothing is timed.
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
    """The times that a task's latency table promises, and those of the same networks when they run whole.

    Args:
        networks: the networks, or the parts of them, in the exported files.
        last: by name before fine-tuning, the name after it.
        kept: by network, the channels that each group keeps.
        task: has the table; without one the result is empty.
        written: the files of the network that was found.
        record: gets the conditions of the table and of the measurement.
        shape: C, H, W of the input; None if there are several: then nothing is measured.
    """
    table = task.latency
    if table is None or shape is None or (table.conditions.runtime == "onnxruntime" and not written.onnx):
        return {}
    names = {DENSE: DENSE, **last}
    timed = {name: networks[name] for name in names.values()}
    files = {} if written.onnx is None else {last[FOUND]: written.onnx}
    threads = torch.get_num_threads()
    try:
        taken = measured(probes_of(timed, files, task.graph, table.conditions, record.folder))
    finally:
        torch.set_num_threads(threads)
    found = promises(table, {name: kept[name] for name in taken}, taken)
    record.update(results={"latency": described(table, task.graph)})
    return found | {before: found[after] for before, after in names.items()}


def shape_of(inside: Called) -> tuple[int, int, int] | None:
    """C, H, W of the only argument of a call; None if there are several, or it is not a tensor of images."""
    if inside.kwargs or len(inside.args) != 1:
        return None
    (images,) = inside.args
    if not isinstance(images, Tensor) or images.ndim != 4:
        return None
    channels, height, width = images.shape[1:]
    return int(channels), int(height), int(width)
