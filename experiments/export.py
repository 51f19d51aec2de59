"""Write a compressed network down: safetensors with its plan, and ONNX, each checked by reading it back."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from amc_env.evaluator import evaluating
from amc_env.zoo import weights
from amc_env.zoo.weights import Card
from experiments.latency import onnx_forward

TOLERANCE = 1e-4  # of the output's scale; float32 sums in another order differ by about 1e-6


class ExportError(ValueError):
    """A written file that does not compute what the network does."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one network.

    ``difference`` is the largest between the logits of PyTorch and onnxruntime, relative to the largest.
    """

    weights: Path
    card: Path
    onnx: Path
    difference: float


def export(network: nn.Module, card: Card, stem: Path, images: Tensor) -> Exported:
    """Write ``<stem>.safetensors``, ``<stem>.json`` and ``<stem>.onnx``, and check all of them.

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
    restored = weights.load_into(network, stem) if card.architecture == "import" else weights.load(stem)[0]
    if isinstance(restored, nn.Module):
        with evaluating(restored):
            agree(restored(images), expected, stem.with_suffix(".safetensors"))
    onnx = write_onnx(network, tuple(images.shape[1:]), stem.with_name(f"{stem.name}.onnx"))
    difference = agree(onnx_forward(onnx)(images), expected, onnx)
    return Exported(*weights.files(stem), onnx, difference)


def write_onnx(network: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """One self-contained ONNX file: ``images (N, C, H, W)`` in, ``logits (N, classes)`` out."""
    example = torch.zeros(2, *shape)
    training = network.training
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(), (example,), input_names=["images"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True, verbose=False,
        )  # fmt: skip
    network.train(training)
    assert program is not None
    program.save(str(path), external_data=False)
    return path


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
