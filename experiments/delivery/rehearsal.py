"""Tries fine-tuning and export on a random plan before a search, so that errors show at once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.building import AnyTask
from amc_env.compressors.constraints import unconstrained
from amc_env.data.splits import DataSet
from amc_env.graph.given import tensors
from experiments.delivery.export import ExportError, UnwritableError, agree, called, trace, write_part
from experiments.delivery.runtimes import ONNX, PT2, RuntimeFileError, onnx_run
from experiments.training.loop import refuse_frozen
from experiments.training.recipe import RecipeError

BATCH = 8  # images of the batch that is trained on


class RehearsalError(ValueError):
    """A network that can be cut and evaluated but not fine-tuned."""


@dataclass(frozen=True)
class Deliverable:
    """The files that can be delivered for a task.

    Attributes:
        part: the module that the exported files hold; "" for the whole network.
        forms: suffixes of the files that can hold it, besides weights and card.
    """

    part: str
    forms: tuple[str, ...]


def rehearse(task: AnyTask, *, tuned: bool, say: Callable[[str], None] = print) -> Deliverable:
    """Train a small network for one batch in training mode, and export it.

    Args:
        task: whose network is cut by a random plan; it is not changed.
        tuned: whether the network that is found is to be fine-tuned.
        say: gets a line for each file that cannot be delivered.

    Raises:
        RehearsalError: when a batch cannot be trained on.
    """
    small = task.rehearsal()
    if tuned and not task.tunable:
        say("nothing will be fine-tuned: the task has no class labels; the repaired network is delivered")
    elif tuned:
        _train_one_batch(copy.deepcopy(small), task.data)
    return exportable(unconstrained(small).eval(), task, say)


def exportable(network: nn.Module, task: AnyTask, say: Callable[[str], None] = print) -> Deliverable:
    """Find out whether exported files can hold the whole network, or only the compressed part.

    Args:
        network: cut or whole.
        task: of it.
        say: gets a line for each file that cannot be delivered.
    """
    part, images = task.part, next(task.data.batches("calibration", 2, 2))[0]
    if not part:
        return Deliverable("", _forms(network, "", images, say))
    if isinstance(images, Tensor) and (forms := _forms(network, "", images, _nothing)) == (PT2, ONNX):
        return Deliverable("", forms)
    say(f"the exported files will hold {part!r} alone: they cannot hold the whole network")
    return Deliverable(part, _forms(network, part, images, say))


def _nothing(_: str) -> None:
    """Say nothing: a failure for the whole network is tried again for a part."""


def _forms(network: nn.Module, part: str, images: Any, say: Callable[[str], None]) -> tuple[str, ...]:
    """The kinds of file that can hold a network or part; ONNX is made from ``.pt2``."""
    try:
        program = trace(network, part, images)
    except UnwritableError as error:
        say(f"{error}. It will be delivered as weights and card, without {PT2} and {ONNX}")
        return ()
    inside, name = called(network, part, images), f"rehearsal{ONNX}"
    try:
        with TemporaryDirectory() as folder:
            write_part(program, Path(folder) / name)
            found = onnx_run(Path(folder) / name, tensors((inside.args, inside.kwargs)))
        agree(found, inside.returned, Path(name))
    except (ExportError, RuntimeFileError) as error:
        why = str(error)
        if isinstance(error, RuntimeFileError) and error.__cause__:  # its advice is for files of the user's
            why = f"onnxruntime cannot run the network: {error.__cause__}"
        say(f"{why}. It will be delivered without an {ONNX} file")
        return (PT2,)
    return PT2, ONNX


def _train_one_batch(network: nn.Module, data: DataSet) -> None:
    images, labels = next(data.batches("train", BATCH))
    device = next(network.parameters()).device
    try:
        refuse_frozen(network)
    except RecipeError as error:
        raise RehearsalError(f"{error}, or give finetune.epochs=0 to deliver it as it is") from error
    network.train()
    try:
        F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise RehearsalError(
            f"the small network cannot be fine-tuned, its training mode fails: {error}; mend its forward, "
            "or give finetune.epochs=0 to deliver it without"
        ) from error
