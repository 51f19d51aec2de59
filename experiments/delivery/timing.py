"""Milliseconds of a forward pass, of one network or of several timed in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from experiments.delivery import racing, tabulating
from experiments.delivery.runtimes import read

BATCH = 64  # images of the larger batch that a search times
WORK = 4 * 10**9  # MACs of a batch; a network for which that is less than 64 images is timed with fewer


@dataclass(frozen=True, slots=True)
class Latency:
    """Median, lowest and highest milliseconds of one call with a batch of images."""

    batch: int
    median_ms: float
    lowest_ms: float
    highest_ms: float
    repeats: int


def batches_of(macs: int) -> tuple[int, ...]:
    """Batch sizes to time: 1, and 64 or the largest power of two within `WORK`.

    Args:
        macs: of the dense network, for one image.
    """
    many = BATCH
    while many > 1 and many * macs > WORK:
        many //= 2
    return (1, many) if many > 1 else (1,)


def measure(
    forwards: Mapping[str, Callable[[Tensor], object]],
    shape: tuple[int, int, int],
    *,
    batches: Sequence[int] = (1, BATCH),
    repeats: int = 30,
    warmup: int = 3,
) -> dict[str, list[Latency]]:
    """Time several networks in turn, A B C A B C ..., so that a drift of the machine affects all alike.

    Args:
        forwards: by name; each is called with images ``(N, C, H, W)`` float32.
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


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the milliseconds of one network, or of several timed in turn; or measure a table of layers.

    With a table and ``runs``, the networks of these searches are run in turn.
    """
    if cfg.table is not None:
        (racing if cfg.runs else tabulating).main(cfg)
        return
    paths = [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint)
    networks = [read(path, cfg.target, trust=cfg.trust) for path in paths]
    for other in networks[1:]:
        other.check(str(networks[0].source), networks[0].shape, networks[0].classes)
    timed = measure(
        {path: network.forward for path, network in zip(paths, networks, strict=True)},
        networks[0].shape, batches=cfg.batches, repeats=cfg.repeats, warmup=cfg.warmup,
    )  # fmt: skip
    table = Table("network", "runtime", "images", "median ms", "lowest", "highest", box=box.SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for path, network in zip(paths, networks, strict=True):
        for latency in timed[path]:
            times = (latency.median_ms, latency.lowest_ms, latency.highest_ms)
            cells = network.runtime, str(latency.batch), *(f"{ms:.3f}" for ms in times)
            table.add_row(Text(path, overflow="fold"), *cells)
    Console().print(table)
