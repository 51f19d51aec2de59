"""The job of `experiments.latency`: milliseconds of exported networks, or a table of a network's layers."""

from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.table import Table
from rich.text import Text

from experiments.delivery import racing, tabulating
from experiments.delivery.runtimes import read
from experiments.delivery.table import show_whole
from experiments.delivery.timing import measure

FOLDED = 16  # characters of a path in a line, at least


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
    head = ("network", "runtime", "images", "median ms", "lowest", "highest")
    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for path, network in zip(paths, networks, strict=True):
        for latency in timed[path]:
            times = (latency.median_ms, latency.lowest_ms, latency.highest_ms)
            cells = network.runtime, str(latency.batch), *(f"{ms:.3f}" for ms in times)
            table.add_row(Text(path, overflow="fold"), *cells)
    show_whole(table, folding=max(0, max(map(len, paths)) - FOLDED))
