"""Least-squares repair of a layer after some of its inputs are gone, from second moments alone.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, the reconstruction step, which AMC's released code reuses. There
feature rows are stored and regressed anew at each step; since the target is the dense layer's own output y = W x, it
suffices to know E[x xᵀ] once: the best weights on any subset of inputs are one small solve (compare the layer-wise
accumulation of Frantar & Alistarh, "Optimal Brain Compression", 2022).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.data import DataSet, cache_folder, digest
from amc_env.modes import evaluating
from amc_env.graph import Graph, Layer


# A depthwise layer loses no inputs; a transposed one adds up over positions, so that y = W x holds for none of them.
REFITTED = ("conv", "linear")


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what each layer reads in the dense network.

    Attributes:
        grams: by layer name, ``(groups, d, d)`` float64: E[x xᵀ] of the inputs of each channel group, d = c_in / groups
            times the kernel's area, channels first.
        ridge: damping of the solve, as a fraction of the mean diagonal.
    """

    grams: Mapping[str, Tensor]
    ridge: float = 1e-6

    def solve(self, layer: Layer, block: int, weight: Tensor, columns: Tensor) -> Tensor:
        """A `surgery.Solve`: the refitted weights where moments are known, the dense ones where they are not."""
        if layer.name not in self.grams:
            return weight[:, columns]
        return refit(weight, self.grams[layer.name][block], columns, self.ridge)


def refit(weight: Tensor, gram: Tensor, columns: Tensor, ridge: float = 1e-6) -> Tensor:
    """Weights on the kept inputs that best reproduce the dense layer: ``min_V E‖W x - V x_kept‖²``.

    Args:
        weight: ``(out, d)`` dense W, kernels flattened; only the rows that stay.
        gram: ``(d, d)`` float64, E[x xᵀ] of the dense input.
        columns: ``(k,)`` int64, inputs that stay, ascending.
        ridge: damping towards the dense weights, as a fraction of the mean diagonal of the kept block. An input that is
            always zero keeps its dense weights.

    Returns:
        ``(out, k)`` in the dtype of ``weight``.
    """
    if len(columns) == weight.size(1):
        return weight
    kept = gram[columns]  # (k, d)
    block = kept[:, columns]
    damping = ridge * block.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    block.diagonal().add_(damping)
    cross = kept @ weight.double().T  # (k, out) = E[x_kept yᵀ], because y = W x
    cross += damping * weight[:, columns].double().T
    solution = torch.cholesky_solve(cross, torch.linalg.cholesky(block))
    return solution.T.to(weight.dtype)


def collect(
    model: nn.Module,
    graph: Graph,
    data: DataSet,
    *,
    images: int,
    points: int,
    seed: int,
    batch_size: int = 100,
) -> Moments:
    """Moments of a dense network over sampled positions of the calibration split.

    Args:
        model: the dense network.
        graph: of it.
        data: only its calibration split is read.
        images: how many of its images.
        points: positions sampled in each image and layer.
        seed: draws the positions.
        batch_size: images in one pass; float32 sums within a batch are added up in float64.

    Raises:
        ArithmeticError: when a layer's input is not finite.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    generator = torch.Generator().manual_seed(seed)

    def hear(layer: Layer, module: nn.Module, x: Tensor) -> None:
        sample = patches(module, layer, x, points, generator)  # (groups, rows, d)
        batch = (sample.transpose(1, 2) @ sample).double()
        if not bool(batch.isfinite().all()):
            raise ArithmeticError(
                f"the input of layer {layer.name!r} is not finite: check the weights of the checkpoint"
            )
        sums[layer.name] = sums[layer.name] + batch if layer.name in sums else batch
        rows[layer.name] = rows.get(layer.name, 0) + sample.size(1)

    with evaluating(model), _listening(model, graph, hear):
        for batch, _ in data.batches("calibration", batch_size, images):
            model(batch)
    return Moments({name: total / rows[name] for name, total in sums.items()})


def collect_cached(
    model: nn.Module, graph: Graph, data: DataSet, *, images: int, points: int, seed: int, ridge: float = 1e-6
) -> Moments:
    """`collect`, kept on disk under the hash of weights, images and sampling, and read from there the next time."""
    key = digest([value.cpu() for value in model.state_dict().values()])[:16]
    name = f"{graph.hash}-{key}-{data.fingerprint('calibration', images)}-{images}-{points}-{seed}"
    path = cache_folder() / "moments" / f"{name}.safetensors"
    try:
        grams = load_file(path)
    except (
        FileNotFoundError,
        SafetensorError,
    ):  # not made yet, or torn by a full disk: either way it is made again
        moments = collect(model, graph, data, images=images, points=points, seed=seed)
        grams = dict(moments.grams)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        save_file(grams, partial)
        os.replace(partial, path)
    return Moments(grams, ridge)


def patches(module: nn.Module, layer: Layer, x: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """``(groups, rows, d)`` inputs of a layer at sampled output positions, channels before kernel taps."""
    if isinstance(module, nn.Linear):
        rows = x.reshape(len(x), -1, x.size(-1))
        if rows.size(1) > points:
            at = torch.randint(rows.size(1), (len(x), points), generator=generator)
            rows = rows.gather(1, at[..., None].expand(-1, -1, rows.size(2)))
        return rows.flatten(0, 1)[None]
    assert isinstance(module, nn.Conv2d)
    x = _padded(module, x)
    at_row, at_column = (
        torch.randint(size, (len(x), points, 1), generator=generator) * stride
        + torch.arange(kernel) * dilation
        for size, stride, kernel, dilation in zip(
            layer.out_size, module.stride, module.kernel_size, module.dilation, strict=True
        )
    )
    image = torch.arange(len(x))[:, None, None, None]
    sampled = x.permute(0, 2, 3, 1)[image, at_row[..., None], at_column[:, :, None]]  # (N, points, kh, kw, C)
    flat = sampled.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (rows, C, kh, kw)
    return flat.unflatten(1, (layer.groups, -1)).flatten(2).transpose(0, 1)


def _padded(module: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, module._reversed_padding_repeated_twice, mode=mode)


@contextmanager
def _listening(
    model: nn.Module, graph: Graph, hear: Callable[[Layer, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Hooks that pass each refittable layer's input on, and are removed afterwards."""
    handles = []
    for layer in graph.layers:
        if layer.kind in REFITTED:
            module = model.get_submodule(layer.name)
            handles.append(module.register_forward_pre_hook(partial(_forward_input, hear, layer)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward_input(
    hear: Callable[[Layer, nn.Module, Tensor], None], layer: Layer, module: nn.Module, inputs: tuple[Tensor]
) -> None:
    hear(layer, module, inputs[0])
