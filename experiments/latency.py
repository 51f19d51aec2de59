"""Milliseconds of one forward pass, measured so that networks can be compared."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from amc_env.evaluator import evaluating

Forward = Callable[[Tensor], object]


@dataclass(frozen=True, slots=True)
class Latency:
    """Median, lowest and highest milliseconds of one call with a batch of images."""

    batch: int
    median_ms: float
    lowest_ms: float
    highest_ms: float
    repeats: int


def measure(
    forwards: Mapping[str, Forward],
    shape: tuple[int, int, int],
    *,
    batches: Sequence[int] = (1, 64),
    repeats: int = 30,
    warmup: int = 3,
) -> dict[str, list[Latency]]:
    """Time several networks in turn, A B C A B C ..., so that a drift of the machine meets all of them alike.

    Args:
        forwards: what to call, by name; each is given images ``(N, C, H, W)`` float32.
        shape: C, H, W of an image; its content is random, from a fixed generator.
        batches: batch sizes.
        repeats: timed rounds.
        warmup: rounds before them.
    """
    found: dict[str, list[Latency]] = {name: [] for name in forwards}
    for batch in batches:
        images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        taken: dict[str, list[float]] = {name: [] for name in forwards}
        for round_ in range(warmup + repeats):
            for name, forward in forwards.items():
                start = time.perf_counter()
                forward(images)
                if round_ >= warmup:
                    taken[name].append(1e3 * (time.perf_counter() - start))
        for name, times in taken.items():
            found[name].append(Latency(batch, statistics.median(times), min(times), max(times), repeats))
    return found


def torch_forward(network: nn.Module) -> Forward:
    """A network as PyTorch runs it: evaluation mode, channels last, no gradients."""
    network = network.to(memory_format=torch.channels_last)

    def forward(images: Tensor) -> object:
        with evaluating(network):
            return network(images.contiguous(memory_format=torch.channels_last))

    return forward


def onnx_forward(path: Path, threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """An ONNX file as onnxruntime runs it on the processor, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # a session that waits by spinning takes the processors from whatever is timed in turn with it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(logits)

    return forward
