"""A network layer by layer: shapes, costs, times and decisions.

Neither weights nor images are needed: the shape of an image comes from the data set, or from
``shape=[3,224,224] classes=1000``. MACs and decisions are the same as in a search.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from amc_env.checks import number_of
from amc_env.execution import evaluating, lay_out
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from experiments.analysis import layers
from experiments.analysis.layers import Row, Times, as_markdown, separable
from experiments.cli import config
from experiments.cli.trained import network_of, shape_of

FORMATS = ("md", "csv", "json")


def measure(
    model: nn.Module, names: Sequence[str], shape: tuple[int, int, int], *, repeats: int = 20, warmup: int = 3
) -> Times:
    """Time the modules of those names inside forward passes of one image.

    Args:
        model: as `experiments.latency` times it: in evaluation mode, channels last where it takes that.
        names: of modules that do not hold one another.
        shape: C, H, W of the image; its content is random, from a fixed generator.
        repeats: timed passes.
        warmup: passes before them.
    """
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=lay_out(model, image))
    passes = []
    with evaluating(model), _clocked(model, names) as spent:
        for _ in range(warmup + repeats):
            spent.update(dict.fromkeys(names, 0.0))
            start = time.perf_counter()
            model(image)
            passes.append((1e3 * (time.perf_counter() - start), dict(spent)))
    timed = passes[warmup:]
    return Times(
        {name: statistics.median(layers[name] for _, layers in timed) for name in names},
        statistics.median(whole - sum(layers.values()) for whole, layers in timed),
    )


@contextmanager
def _clocked(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Milliseconds of each module, summed over its calls while the context is open."""
    spent, began = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def start(name: str, *_: object) -> None:
        began[name] = time.perf_counter()

    def stop(name: str, *_: object) -> None:
        spent[name] += 1e3 * (time.perf_counter() - began[name])

    with ExitStack() as hooks:
        for name in names:
            module = model.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(partial(start, name)))
            hooks.enter_context(module.register_forward_hook(partial(stop, name)))
        yield spent


def traced(model: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """The graph of a network with at least one layer.

    Raises:
        TraceError: for a network that is not understood.
        ConfigError: for one without layers.
    """
    graph = trace(model, shape)
    if not graph.layers:
        raise config.ConfigError("the network has neither a convolution nor a linear layer")
    return graph


def _text(name: str, graph: Graph, table: Sequence[Row], repeats: int) -> str:
    size, pairs = "x".join(map(str, graph.shape)), "no depthwise-separable pairs"
    if (found := separable(graph)) is not None:
        pairs = (
            f"{found.pairs} depthwise-separable pairs take {found.macs_percent:.2f} % of the MACs; standard "
            f"convolutions in their place would take {found.standard:.2f} times as many"
        )
    threads, classes = torch.get_num_threads(), number_of(len(graph.outputs), "class", "classes")
    lines = [
        f"{name} on an image of {size}, {classes}:\n\n{as_markdown(table)}\n",
        f"{number_of(len(graph.groups), 'decision')}, by number; - for channels that always stay",
        f"ms: medians of {number_of(repeats, 'pass', 'passes')} of one image, and their sum; "
        f"{number_of(threads, 'thread')}",
        pairs,
        *(f"stays: {note}" for note in graph.notes),
    ]
    return "\n".join(lines)


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the layers of a network."""
    shape, classes = shape_of(cfg)
    model = network_of(cfg, shape, classes)
    graph = traced(model, shape)
    if cfg.picture is not None:
        picture = Path(cfg.picture)
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
            layers.draw(graph, picture)
        except OSError as error:
            raise config.ConfigError(
                f"the picture cannot be written ({error}): choose another place with picture=FILE.png"
            ) from error
    names = [layer.name for layer in graph.layers]
    table = layers.rows(graph, measure(model, names, shape, repeats=cfg.repeats, warmup=cfg.warmup))
    name = cfg.model.options.get("target", cfg.model.name)
    if cfg.format == "csv":
        print(layers.as_csv(table))
    elif cfg.format == "json":
        print(layers.as_json(table, graph, name))
    else:
        print(_text(name, graph, table, cfg.repeats))
