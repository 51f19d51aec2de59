"""Caches what is computed from a dense network and its calibration images, on disk."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amc_env import tensor_files
from amc_env.data.own import OwnData
from amc_env.data.splits import DataSet, cache_folder, digest
from amc_env.execution import device_in, evaluating
from amc_env.files import DamagedError
from amc_env.graph.given import nested, tensors
from amc_env.graph.structure import Graph

LOOKED_AT = 8  # images whose logits tell one forward from another


def cached(
    kind: str,
    make: Callable[[], dict[str, Tensor]],
    model: nn.Module,
    graph: Graph,
    data: DataSet | OwnData,
    *,
    images: int,
    points: int,
    seed: int,
) -> dict[str, Tensor]:
    """The result of ``make``, cached on disk.

    Args:
        kind: name and format version, such as "moments-3".
        make: called if there is no such file.
        model: the dense network.
        graph: of that network.
        data: only its calibration split counts.
        images: number of images that count.
        points: positions sampled in each image and layer.
        seed: draws the positions.
    """
    key = digest([value.cpu() for value in model.state_dict().values()])[:16]
    modules = digest([torch.frombuffer(bytearray(repr(model).encode()), dtype=torch.uint8)])[:8]
    sample = f"{data.fingerprint('calibration', images)}-{images}-{points}-{seed}"
    forward = digest(_some_outputs(model, data))[:8]  # two forwards may share weights and repr
    name = f"{kind}-{graph.hash}-{key}-{modules}-{forward}-{sample}.safetensors"
    path = cache_folder() / "moments" / name
    try:
        return tensor_files.read(path)[0]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, DamagedError) as error:
        warnings.warn(f"{error}: it is made again", stacklevel=2)
    stored = make()
    try:
        tensor_files.write(path, stored)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): it will be made again", stacklevel=2)
    return stored


def _some_outputs(model: nn.Module, data: DataSet | OwnData) -> list[Tensor]:
    """The dense network's outputs for a few calibration images."""
    images, _ = next(data.batches("calibration", LOOKED_AT, LOOKED_AT))
    device = device_in(model)
    with evaluating(model):
        found = model(nested(images, lambda each: each.to(device) if isinstance(each, Tensor) else each))
    return [value.cpu() for value in tensors(found)]
