"""Devices, memory formats, and evaluation mode."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

DEVICES = ("auto", "cpu", "cuda")
CPU = torch.device("cpu")


class DeviceError(ValueError):
    """A device that this machine does not have."""


def device_of(name: str) -> torch.device:
    """The device of a name in `DEVICES`; "auto" is a GPU if PyTorch finds one.

    Raises:
        DeviceError: for an unknown name, and for "cuda" on a machine without a GPU.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; there are {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        raise DeviceError(
            f"device=cuda, but PyTorch (CUDA {built}) finds no GPU; use device=cpu or device=auto"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def device_in(model: nn.Module) -> torch.device:
    """The device of a network's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), CPU)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients; the mode of every submodule is restored afterwards.

    Not PyTorch's inference mode: a tensor that a forward makes once and keeps could not be trained with.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes.items():
            module.training = training


def common_layout(layouts: Collection[torch.memory_format]) -> torch.memory_format:
    """The format for images that several networks read, see `lay_out`: channels last if all allow it."""
    return torch.contiguous_format if torch.contiguous_format in layouts else torch.channels_last


def lay_channels_last(model: nn.Module) -> nn.Module:
    """Lay the tensors of four dimensions channels last, in place; others have no such layout."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def lay_out(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Lay a model's weights channels last, in which convolutions are fastest, if its forward allows that.

    A forward with ``x.view(n, -1)`` works in the default format only; such a model keeps it.

    Args:
        model: changed in place, and run once on the images.
        images: ``(N, C, H, W)`` on the model's device; two are enough.

    Returns:
        The format for its images.
    """
    try:
        with evaluating(lay_channels_last(model)):
            model(torch.empty_like(images, memory_format=torch.channels_last).copy_(images))
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last
