"""Reads a network from a checkpoint, a compressed file, ONNX or torch.export, and runs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from amc_env import checkpoints as weights
from amc_env import packing, zoo
from amc_env.card import Card
from amc_env.execution import evaluating, lay_out
from experiments.delivery import sums

Forward = Callable[[Tensor], Tensor]

ONNX, PT2 = ".onnx", ".pt2"
CHECKPOINT = (".safetensors", ".json")


class RuntimeFileError(ValueError):
    """A network file that is missing, of unknown kind, damaged, or for other images."""


@dataclass(frozen=True, slots=True)
class Runnable:
    """A network that was read from a file.

    Attributes:
        source: the stem of a checkpoint, or the path of a file.
        runtime: "torch", "onnx" or "pt2".
        forward: images ``(N, C, H, W)`` normalised float32 to logits ``(N, classes)``.
        shape: C, H, W of the images that it takes.
        classes: number of logits.
        card: of a checkpoint; None for other files.
    """

    source: Path
    runtime: str
    forward: Forward
    shape: tuple[int, int, int]
    classes: int
    card: Card | None = None

    def check(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        """Raise a `RuntimeFileError` unless it takes images of this shape and has these classes."""
        if self.shape != shape:
            raise RuntimeFileError(
                f"{self.source} takes images of shape {self.shape} (C, H, W), those of {name} are "
                f"{tuple(shape)}; choose the data that the network was made for"
            )
        if self.classes != classes:
            raise RuntimeFileError(
                f"{self.source} gives {self.classes} logits, {name} has {classes} classes; choose the data "
                "that the network was made for"
            )

    def module(self) -> nn.Module:
        """The same as a module, for functions that evaluate modules."""
        return _Called(self.forward)


def card_beside(path: Path) -> Card | None:
    """The card that lies beside an exported file; None without one."""
    stem = path.with_suffix("")
    return weights.read_card(stem) if weights.files(stem)[1].is_file() else None


class _Called(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._run = (forward,)  # in a tuple, a module would not become a child whose mode is switched

    def forward(self, images: Tensor) -> Tensor:
        return self._run[0](images)


def read(path: Path | str, target: str | None = None, *, trust: bool = False) -> Runnable:
    """The network of a checkpoint, named by its stem or either of its files, a .packed, an .onnx or a .pt2.

    Only PyTorch's reader of ``.pt2`` may run code from the file.

    Args:
        path: of it.
        target: ``module:function`` that builds a user's own network for a checkpoint.
        trust: allow a ``.pt2``, and an ``.onnx`` without its digest beside it.

    Raises:
        RuntimeFileError: when there is no such file, it is none of these kinds, or it may not be read.
        SumsError: when it is not the file that was exported.
        CheckpointError, CodingError, ModelError: for a checkpoint or compressed file that cannot be used.
    """
    path = Path(path)
    if path.suffix in (ONNX, PT2):
        if not path.is_file():
            raise RuntimeFileError(_missing(path))
        if path.suffix == PT2 and not trust:
            raise RuntimeFileError(
                f"{path} is a file of torch.export, which may run code when it is read: add trust=true where "
                "you know who made it, or give the checkpoint or the .onnx beside it"
            )
        sums.check(path, trust=trust)
        return _read_onnx(path) if path.suffix == ONNX else _read_pt2(path)
    if path.suffix == packing.SUFFIX:
        source, (network, card) = path, packing.read(path)
    else:
        source = path.with_suffix("") if path.suffix in CHECKPOINT else path
        if not any(file.exists() for file in weights.files(source)):
            raise RuntimeFileError(_unknown(path) if path.is_file() else _missing(path))
        network, card = _read_checkpoint(source, target)
    return of_checkpoint(source, network, card)


def of_checkpoint(source: Path, network: nn.Module, card: Card) -> Runnable:
    """A network of a checkpoint or of a compressed file, in PyTorch."""
    channels, height, width = card.shape
    return Runnable(source, "torch", torch_forward(network), (channels, height, width), card.classes, card)


def restored(path: Path | str, target: str | None = None) -> tuple[nn.Module, Card]:
    """The network of a checkpoint itself, for a metric that looks inside, and its card; see `read`.

    Raises:
        RuntimeFileError, CheckpointError, ModelError: as `read`.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in CHECKPOINT else path
    if not any(file.exists() for file in weights.files(stem)):
        instead = f"give checkpoint={path.with_suffix('')}" if path.is_file() else _missing(path)
        raise RuntimeFileError(
            f"a metric of your own looks inside a network and measures checkpoints; {instead}"
        )
    return _read_checkpoint(stem, target)


def torch_forward(network: nn.Module) -> Forward:
    """A network in PyTorch: evaluation mode, channels last if it accepts that, no gradients."""
    layout: list[torch.memory_format] = []  # found with the first images

    def forward(images: Tensor) -> Tensor:
        if not layout:
            layout.append(lay_out(network, images[:2]))
        with evaluating(network):
            logits: Tensor = network(images.contiguous(memory_format=layout[0]))
            return logits

    return forward


def onnx_forward(path: Path) -> Forward:
    """An ONNX file in onnxruntime on the processor, with as many threads as PyTorch.

    Raises:
        RuntimeFileError: when onnxruntime cannot read it.
    """
    return _one_in_one_out(_session(path))


def pt2_program(path: Path) -> Callable[..., Any]:
    """A file of ``torch.export`` in PyTorch, for any inputs; see `read` about trust.

    Raises:
        RuntimeFileError: when it cannot be read.
    """
    module: Callable[..., Any] = _program(path).module()
    return module


def onnx_run(path: Path, given: Iterable[Tensor]) -> list[Tensor]:
    """Run an ONNX file with any number of inputs, in its order.

    Raises:
        RuntimeFileError: when onnxruntime cannot read it.
    """
    session = _session(path)
    names = [each.name for each in session.get_inputs()]
    values = {name: np.ascontiguousarray(value.numpy()) for name, value in zip(names, given, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, values)]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options with a number of threads, which wait without spinning.

    A spinning session would slow down the networks that are timed in turn with it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = session_options(torch.get_num_threads())
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that onnxruntime makes in C++, children of Exception alone
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise RuntimeFileError(f"{path} is not a usable ONNX file: {error}; export it again") from error
    return session


def _one_in_one_out(session: onnxruntime.InferenceSession) -> Forward:
    name = session.get_inputs()[0].name

    def forward(images: Tensor) -> Tensor:
        found = session.run(None, {name: np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(found[0])

    return forward


def _program(path: Path) -> ExportedProgram:
    try:
        return torch.export.load(path)
    except Exception as error:  # zipfile's, json's, KeyError, ...: whatever the damage leads its reader to
        raise RuntimeFileError(
            f"{path} is not a usable file of torch.export: {error}; export it again"
        ) from error


def _forward_of(module: Callable[..., Any]) -> Forward:
    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
            return logits

    return forward


def _read_onnx(path: Path) -> Runnable:
    session = _session(path)
    shapes = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    return _runnable(path, "onnx", _one_in_one_out(session), *shapes)


def _read_pt2(path: Path) -> Runnable:
    program = _program(path)
    given, made = program.graph_signature.user_inputs[0], program.graph_signature.user_outputs[0]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shapes = list(values[str(given)].shape), list(values[str(made)].shape)
    return _runnable(path, "pt2", _forward_of(program.module()), *shapes)


def _runnable(
    path: Path, runtime: str, forward: Forward, images: list[object], logits: list[object]
) -> Runnable:
    if len(images) != 4 or len(logits) != 2 or not all(isinstance(n, int) for n in (*images[1:], logits[1])):
        raise RuntimeFileError(
            f"{path} makes {logits} of {images}; only its first number, of images, may be open: "
            "(N, C, H, W) in, (N, classes) out"
        )
    if isinstance(images[0], int):
        raise RuntimeFileError(
            f"{path} takes batches of {images[0]} alone: "
            "export it with an open number of images (dynamic_shapes)"
        )
    channels, height, width = (int(str(size)) for size in images[1:])
    return Runnable(path, runtime, forward, (channels, height, width), int(str(logits[1])))


def _read_checkpoint(stem: Path, target: str | None) -> tuple[nn.Module, Card]:
    card = weights.read_card(stem)
    if card.architecture != "import":
        return weights.load(stem)
    if target is None:
        raise RuntimeFileError(
            f"{stem} is of a network of your own, and reading it imports no code by itself: add "
            f"target={card.options.get('target', 'module:function')}, or give its .onnx or .pt2"
        )
    options = {name: value for name, value in card.options.items() if name != "target"}
    dense = zoo.build("import", classes=card.classes, in_channels=card.in_channels, target=target, **options)
    return weights.restore(dense, stem)


def _missing(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    there = sorted(
        {
            file.with_suffix("").name if file.suffix in CHECKPOINT else file.name
            for file in folder.glob("*")
            if file.suffix in (*CHECKPOINT, ONNX, PT2, packing.SUFFIX)
            and not file.name.startswith(("record.", "plan."))
        }
    )
    listed = f"in {folder} there are {', '.join(there)}" if there else f"{folder} holds no network"
    return f"there is no network {path}: {listed}"


def _unknown(path: Path) -> str:
    return (
        f"{path} is none of the files of a network: a checkpoint is named without suffix (of its "
        f".safetensors and .json), the others end in {ONNX}, {PT2} or {packing.SUFFIX}"
    )
