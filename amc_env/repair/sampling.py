"""What layers read, sampled: the rows of the least-squares problems that `reconstruct` solves."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.graph.structure import Graph, Layer

# A depthwise layer loses no inputs; a transposed one adds up over positions, so that y = W x holds at none.
REFITTED = ("conv", "linear")


def refittable(graph: Graph) -> list[Layer]:
    """The layers that can lose inputs and be repaired."""
    return [layer for layer in graph.layers if layer.kind in REFITTED and not graph.fixed[layer.reads].all()]


def weighed(graph: Graph) -> list[Layer]:
    """The layers that can lose inputs: those of `refittable`, and transposed convolutions."""
    return [
        layer for layer in graph.layers if layer.kind != "depthwise" and not graph.fixed[layer.reads].all()
    ]


def draw_positions(layer: Layer, images: int, points: int, generator: torch.Generator) -> Tensor:
    """``(calls, images, points)`` int64: output positions, row by row, of each image and call of a layer;
    input positions of a transposed one.

    One is drawn from each of ``points`` equal parts of the image, so none comes twice. Where there are no
    more positions than that, all are taken.
    """
    height, width = layer.in_size if layer.kind == "transposed" else layer.out_size
    places = height * width
    if places <= points:
        return torch.arange(places).expand(layer.calls, images, places)
    part = torch.rand(layer.calls, images, points, generator=generator, dtype=torch.float64)
    return ((part + torch.arange(points)) * (places / points)).long().clamp_(max=places - 1)


def patches(module: nn.Module, layer: Layer, x: Tensor, at: Tensor) -> Tensor:
    """``(groups, rows, d)`` what a layer reads for some of its outputs, channels before kernel taps.

    Args:
        module: the layer.
        layer: its facts.
        x: its input, ``(N, C, H, W)`` or ``(N, ..., C)``.
        at: ``(N, points)`` int64, output positions as `draw_positions` counts them.
    """
    at = at.to(x.device)
    if isinstance(module, nn.Linear):
        rows = x.reshape(len(x), -1, x.size(-1))
        return rows.gather(1, at[..., None].expand(-1, -1, rows.size(2))).flatten(0, 1)[None]
    if isinstance(module, nn.ConvTranspose2d):
        pixels = x.flatten(2).mT  # (N, positions, C)
        seen = pixels.gather(1, at[..., None].expand(-1, -1, pixels.size(2))).flatten(0, 1)
        blocks: Tensor = seen.unflatten(1, (layer.groups, -1)).transpose(0, 1)
        return blocks
    assert isinstance(module, nn.Conv2d)
    corners = at // layer.out_size[1], at % layer.out_size[1]
    rows, columns = (
        corner[..., None] * stride + torch.arange(kernel, device=x.device) * dilation
        for corner, stride, kernel, dilation in zip(
            corners, module.stride, module.kernel_size, module.dilation, strict=True
        )
    )
    x, (left, top) = _padded(module, x)
    rows, columns = rows[..., None] - top, columns[:, :, None] - left  # (N, points, kh, 1) and (..., 1, kw)
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixel = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    pixel += torch.arange(len(x), device=x.device)[:, None, None, None] * (height * width)
    seen = x.permute(0, 2, 3, 1).reshape(-1, x.size(1)).index_select(0, pixel.flatten())
    if not bool(inside.all()):
        seen *= inside.flatten()[:, None]
    flat = seen.view(at.numel(), -1, x.size(1)).mT  # (rows, taps, C) to (rows, C, taps)
    sample: Tensor = flat.unflatten(1, (layer.groups, -1)).flatten(2).transpose(0, 1)
    return sample


def _padded(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The input, padded unless by zeros, and how many zeros are still to be put left of it and above it."""
    sides = module._reversed_padding_repeated_twice
    if module.padding_mode == "zeros":
        return x, (sides[0], sides[2])
    return F.pad(x, sides, mode=module.padding_mode), (0, 0)


@contextmanager
def listening(
    model: nn.Module, layers: list[Layer], hear: Callable[[Layer, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Hooks that pass on what each of some layers reads, and are removed afterwards."""
    handles = []
    for layer in layers:
        module = model.get_submodule(layer.name)
        handles.append(module.register_forward_pre_hook(partial(_forward, hear, layer), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(
    hear: Callable[[Layer, nn.Module, Tensor], None],
    layer: Layer,
    module: nn.Module,
    args: tuple[Tensor, ...],
    kwargs: Mapping[str, Any],
) -> None:
    hear(layer, module, args[0] if args else next(iter(kwargs.values())))
