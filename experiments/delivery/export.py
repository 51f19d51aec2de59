"""Exports a network to safetensors, torch.export and ONNX; each file is read back and checked."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from amc_env import checkpoints as weights
from amc_env.checkpoints import Card
from amc_env.execution import evaluating
from experiments.delivery import sums
from experiments.delivery.runtimes import ONNX, PT2, onnx_forward, pt2_forward

TOLERANCE = 1e-4  # of the output's scale; float32 sums in another order differ by about 1e-6


class ExportError(ValueError):
    """A file that cannot be written, or that does not compute what the network does."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one network.

    ``difference`` is the largest between the logits of PyTorch and onnxruntime, relative to the largest.
    """

    weights: Path
    card: Path
    onnx: Path
    pt2: Path
    sums: Path
    difference: float

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.weights, self.card, self.onnx, self.pt2, self.sums]


def export(network: nn.Module, card: Card, stem: Path, images: Tensor) -> Exported:
    """Write ``<stem>.safetensors``, ``.json``, ``.pt2``, ``.onnx`` and their ``.sha256``; check all of them.

    Args:
        network: what to write; a trained network, cut or whole.
        card: of it; its plan, with the architecture's name, rebuilds the network in another process.
        stem: path without suffix.
        images: ``(N, C, H, W)`` normalised float32, on which the files must agree with the network.

    Raises:
        ExportError: when a file read back gives other logits.
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
    program = trace(network, tuple(images.shape[1:]))
    pt2, onnx = (stem.with_name(f"{stem.name}{suffix}") for suffix in (PT2, ONNX))
    torch.export.save(program, pt2)
    agree(pt2_forward(pt2)(images), expected, pt2)
    _save_onnx(program, onnx)
    difference = agree(onnx_forward(onnx)(images), expected, onnx)
    made = (*weights.files(stem), onnx, pt2)
    return Exported(*made, sums.write(stem, made), difference)


def trace(network: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """A network as `torch.export` writes it down in evaluation mode, for any number of images of a shape."""
    example = torch.zeros(2, *shape)
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # trained channels last
    with evaluating(network), _quiet_exporter(), _told("torch.export"):
        return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("N")},))


def write_onnx(network: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """One self-contained ONNX file: ``images (N, C, H, W)`` in, ``logits (N, classes)`` out."""
    _save_onnx(trace(network, shape), path)
    return path


def _save_onnx(program: ExportedProgram, path: Path) -> None:
    with _quiet_exporter(), _told("ONNX"):
        written = torch.onnx.export(
            program, (), input_names=["images"], output_names=["logits"],
            dynamic_shapes=({0: Dim("N")},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert written is not None
    for node in written.model.graph.all_nodes():  # they name the source files of this machine
        node.metadata_props.clear()
    written.save(str(path), external_data=False)


@contextmanager
def _told(form: str) -> Iterator[None]:
    """Turn an exporter's failure, of many lines, into one message that names the form of file."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        causes = [line.strip() for line in str(cause).splitlines() if line.strip()]
        why = causes[0][:300] if causes else type(cause).__name__
        raise ExportError(
            f"the network cannot be written as {form}: {why}; "
            "replace the operation, or give deliver=false to search without delivering"
        ) from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's warnings of its own deprecations, and its optimiser's log of every pass."""
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


def agree(found: Tensor, expected: Tensor, source: Path) -> float:
    """The largest difference relative to the largest logit; an `ExportError` when it is above `TOLERANCE`."""
    difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{source} gives logits that differ by {difference:.2e} of their scale, above {TOLERANCE}"
        )
    return difference
