"""Samples the inputs of layers: the rows of the least-squares problems of repair."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from amc_env.data.splits import DataError
from amc_env.graph.labels import TraceError
from amc_env.graph.structure import Graph, Layer

# A depthwise layer loses no inputs; a transposed one adds up over positions, so that y = W x holds at none.
REFITTED = ("conv", "linear")
CALLS = (F.conv2d, F.conv_transpose2d, F.linear)


def refittable(graph: Graph) -> list[Layer]:
    """The layers that can lose inputs and be repaired."""
    return [layer for layer in graph.layers if layer.kind in REFITTED and not graph.fixed[layer.reads].all()]


def weighed(graph: Graph) -> list[Layer]:
    """The layers that can lose inputs: `refittable` ones and transposed convolutions."""
    return [
        layer for layer in graph.layers if layer.kind != "depthwise" and not graph.fixed[layer.reads].all()
    ]


def draw_positions(layer: Layer, images: int, points: int, generator: torch.Generator) -> Tensor:
    """``(calls, images, points)`` int64: output positions, row by row, of each image and call of a layer;
    input positions of a transposed one.

    One is drawn from each of ``points`` equal parts of the image, so none is drawn twice. If there are no
    more positions than that, all are taken.
    """
    height, width = layer.in_size if layer.kind == "transposed" else layer.out_size
    places = height * width
    if places <= points:
        return torch.arange(places).expand(layer.calls, images, places)
    part = torch.rand(layer.calls, images, points, generator=generator, dtype=torch.float64)
    return ((part + torch.arange(points)) * (places / points)).long().clamp_(max=places - 1)


class Seen(NamedTuple):
    """The input of one call of a layer.

    Attributes:
        x: ``(N, C, H, W)`` or ``(N, ..., C)``.
        left: zeros that the convolution pads on the left.
        top: and above.
    """

    x: Tensor
    left: int = 0
    top: int = 0


def patches(module: nn.Module, layer: Layer, seen: Seen, at: Tensor) -> Tensor:
    """``(groups, rows, d)``, a layer's inputs for some of its outputs, channels before kernel taps.

    Args:
        module: the layer.
        layer: its facts.
        seen: its input.
        at: ``(N, points)`` int64, output positions as `draw_positions` counts them.

    Raises:
        DataError: for an input of another size than the network was traced with, or of another number of
            images.
    """
    x, at = seen.x, at.to(seen.x.device)
    linear = isinstance(module, nn.Linear)
    inputs = x.numel() // x.size(-1) / math.prod(layer.out_size) if linear else len(x)
    if inputs != len(at):
        raise DataError(
            f"layer {layer.name!r} is given {inputs:g} inputs for {len(at)} images: repair knows one for "
            "each; give repair=none"
        )
    if linear:
        first = torch.arange(len(at), device=x.device)[:, None] * math.prod(layer.out_size)
        return x.reshape(-1, x.size(-1)).index_select(0, (at + first).flatten())[None]
    if tuple(x.shape[2:]) != layer.in_size:
        raise DataError(
            f"layer {layer.name!r} is given {tuple(x.shape[2:])} here, and {layer.in_size} when the network "
            "was traced: bring all images to one size"
        )
    if isinstance(module, nn.ConvTranspose2d):
        pixels = x.flatten(2).mT  # (N, positions, C)
        read = pixels.gather(1, at[..., None].expand(-1, -1, pixels.size(2))).flatten(0, 1)
        blocks: Tensor = read.unflatten(1, (layer.groups, -1)).transpose(0, 1)
        return blocks
    return _windows(module, layer, seen, at)


def _windows(module: nn.Module, layer: Layer, seen: Seen, at: Tensor) -> Tensor:
    """`patches` of a convolution: the windows of its kernel, zero where it reaches over the border."""
    assert isinstance(module, nn.Conv2d)
    x = seen.x
    corners = at // layer.out_size[1], at % layer.out_size[1]
    rows, columns = (
        corner[..., None] * stride + torch.arange(kernel, device=x.device) * dilation
        for corner, stride, kernel, dilation in zip(
            corners, module.stride, module.kernel_size, module.dilation, strict=True
        )
    )
    rows, columns = (
        rows[..., None] - seen.top,
        columns[:, :, None] - seen.left,
    )  # (N, points, kh, 1), (..., 1, kw)
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixel = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    pixel += torch.arange(len(x), device=x.device)[:, None, None, None] * (height * width)
    read = x.permute(0, 2, 3, 1).reshape(-1, x.size(1)).index_select(0, pixel.flatten())
    if not bool(inside.all()):
        read *= inside.flatten()[:, None]
    flat = read.view(at.numel(), -1, x.size(1)).mT  # (rows, taps, C) to (rows, C, taps)
    sample: Tensor = flat.unflatten(1, (module.groups, -1)).flatten(2).transpose(0, 1)
    return sample


Hear = Callable[[Layer, nn.Module, Seen], None]


class Listening(TorchFunctionMode):
    """While the context is open, passes on the input of each call of some layers just before the call runs.

    Layers are identified by their weights, not by their modules, so an input that a forward pads by itself
    before ``F.conv2d`` is passed on padded.

    Args:
        model: the network that holds the layers.
        layers: of its graph.
        hear: gets a layer, its module and its input; it may change the layer's weights in place.
    """

    def __init__(self, model: nn.Module, layers: list[Layer], hear: Hear) -> None:
        super().__init__()
        found = [(layer, model.get_submodule(layer.name)) for layer in layers]
        self._layers = {id(module.weight): (layer, module) for layer, module in found}
        self._hear, self._silent = hear, {layer.name for layer in layers}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One call."""
        kwargs = kwargs or {}
        if function in CALLS:
            x, weight = first_two(args, kwargs)
            if id(weight) in self._layers:
                layer, module = self._layers[id(weight)]
                self._silent.discard(layer.name)
                self._hear(layer, module, Seen(x, *_zeros(module, args, kwargs)))
        return function(*args, **kwargs)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Refuse to end if a layer was never called: it would have no rows."""
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        if kind is None and self._silent:
            raise TraceError(
                f"layer {min(self._silent)!r} did not run, or with a copy of its weight, such as "
                "weight.bfloat16() in a forward: use the weight itself, or repair=none order=magnitude"
            )


def first_two(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Input and weight."""
    x, weight = (*args, *(kwargs[name] for name in ("input", "weight")[len(args) :]))[:2]
    return x, weight


def _zeros(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """The zeros that a convolution pads on the left and above its input."""
    if not isinstance(module, nn.Conv2d):
        return 0, 0
    padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
    if padding == "valid":
        return 0, 0
    if padding == "same":
        top, left = (d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return left, top
    top, left = (padding * 2)[:2] if isinstance(padding, tuple | list) else (padding, padding)
    return left, top
