"""Exports a network to safetensors, torch.export and ONNX; each file is read back and checked."""

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from amc_env import checkpoints as weights
from amc_env import files
from amc_env.card import Card
from amc_env.compressors.trial import apart
from amc_env.execution import evaluating
from amc_env.graph.given import copied, nested, tensors
from experiments.delivery import sums
from experiments.delivery.runtimes import ONNX, PT2, onnx_run, pt2_program

TOLERANCE = 1e-4  # of the output's scale; float32 sums in another order differ by about 1e-6


class ExportError(ValueError):
    """A file that cannot be written, or that computes something else than the network."""


class UnwritableError(ExportError):
    """A network that cannot be exported to this kind of file."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one network; None for a kind of file that cannot hold it.

    ``difference`` is the largest one between PyTorch's and onnxruntime's outputs, relative to the largest
    value.
    """

    weights: Path
    card: Path
    onnx: Path | None
    pt2: Path | None
    sums: Path
    difference: float | None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        every = self.weights, self.card, self.onnx, self.pt2, self.sums
        return [file for file in every if file is not None]


def export(
    network: nn.Module,
    card: Card,
    stem: Path,
    images: Any,
    *,
    part: str = "",
    forms: Collection[str] = (PT2, ONNX),
) -> Exported:
    """Write ``<stem>.safetensors``, ``.json``, ``.pt2``, ``.onnx`` and their ``.sha256``; check all of them.

    Args:
        network: a trained network, cut or whole.
        card: its card; plan and architecture rebuild the network in another process.
        stem: path without suffix.
        images: an input of the network, ``(N, C, H, W)`` normalised float32 or another form; on it the files
            must agree with the network.
        part: name of the module that ``.pt2`` and ``.onnx`` hold; "" for the whole network.
        forms: which of the two are written.

    Raises:
        UnwritableError: when one of the two forms cannot hold the network; weights and card are written.
        ExportError: when a file read back gives other values.
        CheckpointError: when the folder cannot be written.
    """
    weights.save(stem, network, card)
    with evaluating(network):
        expected = network(images)
    if card.architecture == "import":  # reading a checkpoint back imports no code of the user's
        weights.load_into(network, stem)
    else:
        restored, _ = weights.load(stem)
        with evaluating(restored):
            agree(restored(images), expected, weights.files(stem)[0])
    pt2, onnx = (stem.with_name(f"{stem.name}{suffix}") for suffix in (PT2, ONNX))
    difference = None
    inside = called(network, part, images)
    program = _trace(network.get_submodule(part), inside.args, inside.kwargs) if forms else None
    if program is not None and PT2 in forms:
        content = io.BytesIO()  # PyTorch's writer of files ends the process where the disk is full
        torch.export.save(program, content)
        files.write(pt2, content.getvalue())
        args, kwargs = copied((inside.args, inside.kwargs))  # it may change them in place
        agree(pt2_program(pt2)(*args, **kwargs), inside.returned, pt2)
    if program is not None and ONNX in forms:
        _save_onnx(program, onnx, named=not part and isinstance(inside.returned, Tensor))
        difference = agree(onnx_run(onnx, tensors((inside.args, inside.kwargs))), inside.returned, onnx)
    held = onnx if ONNX in forms else None, pt2 if PT2 in forms else None
    made = [*weights.files(stem), *(file for file in held if file is not None)]
    return Exported(*weights.files(stem), *held, sums.write(stem, made), difference)


@dataclass(frozen=True)
class Called:
    """One call of a module: its arguments and its result."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Any


def called(network: nn.Module, part: str, images: Any) -> Called:
    """The first call that a network makes to one of its parts."""
    given: list[Any] = []
    kept: list[Any] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        given.append(copied((args, kwargs)))

    module = network.get_submodule(part)
    with (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(lambda _, __, returned: kept.append(copied(returned))),
        evaluating(network),
    ):
        network(images)
    (args, kwargs), returned = given[0], kept[0]
    return Called(args, kwargs, returned)


def trace(network: nn.Module, part: str, images: Any) -> ExportedProgram:
    """Export a network, or a part of it, by `torch.export` in evaluation mode, for any batch size.

    Args:
        network: a copy of it is traced.
        part: name of the module; "" for the whole.
        images: an input of the network; its sizes matter.

    Raises:
        UnwritableError: for a forward that `torch.export` cannot follow.
    """
    inside = called(network, part, images)
    return _trace(network.get_submodule(part), inside.args, inside.kwargs)


def _trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedProgram:
    example = nested((args, dict(kwargs)), _of_two)
    bound = inspect.signature(module.forward).bind(*example[0], **example[1]).arguments
    open_ = nested(bound, lambda value: {0: Dim("N")} if isinstance(value, Tensor) and value.ndim else None)
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # trained channels last
    with evaluating(module), _quiet_exporter(), _told("torch.export"):
        program = torch.export.export(module, example[0], example[1] or None, dynamic_shapes=open_)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names the source files of this machine
    return program


def _of_two(value: Any) -> Any:
    """Zeros for two images; with one, the exporter would fix the batch size."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    return torch.zeros(2, *value.shape[1:], dtype=value.dtype)


def write_onnx(network: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """One self-contained ONNX file: ``images (N, C, H, W)`` in, ``logits (N, classes)`` out."""
    _save_onnx(_trace(network, (torch.zeros(2, *shape),), {}), path, named=True)
    return path


def write_part(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX file of a program with any inputs and outputs.

    Raises:
        UnwritableError: for an operation that ONNX lacks.
    """
    _save_onnx(program, path, named=False)


def _save_onnx(program: ExportedProgram, path: Path, *, named: bool) -> None:
    with _quiet_exporter(), _told("ONNX"):
        written = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["images"] if named else None,
            output_names=["logits"] if named else None,
        )  # fmt: skip
    assert written is not None
    for node in written.model.graph.all_nodes():  # they name the source files of this machine
        node.metadata_props.clear()
    files.write(path, written.model_proto.SerializeToString())


@contextmanager
def _told(form: str) -> Iterator[None]:
    """Turn an exporter's long failure into one message that names the kind of file."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        causes = [line.strip() for line in str(cause).splitlines() if line.strip()]
        why = causes[0][:300] if causes else type(cause).__name__
        raise UnwritableError(f"the network cannot be written as {form}: {why}") from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's deprecation warnings and its optimiser's log."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def agree(found: Any, expected: Any, source: Path) -> float:
    """The largest difference relative to the largest value; an `ExportError` when it is above `TOLERANCE`.

    Args:
        found: tensors, in any nesting.
        expected: the same.
        source: the file, for the message.
    """
    pairs = zip(tensors(found), tensors(expected), strict=True)
    differences = [apart(ours, theirs) for ours, theirs in pairs]
    difference = next((each for each in differences if not each <= TOLERANCE), max(differences))
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{source} gives logits that differ by {difference:.2e} of their scale, above {TOLERANCE}"
        )
    return difference
