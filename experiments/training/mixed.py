"""Mixed precision: forward and backward passes in bfloat16, weights and updates in float32."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; without that, training in bfloat16 is tens of times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@contextmanager
def in_bfloat16(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run forward passes of a model in bfloat16, and their backward passes.

    On a processor depthwise convolutions with a stride stay in float32: the gradient of their inputs takes 5
    to 20 times as long in bfloat16, and was a third of a training step of MobileNet V1.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        for module in model.modules() if device.type == "cpu" else ():
            if isinstance(module, nn.Conv2d) and _strided_depthwise(module):
                layer = _InFloat32()
                stack.enter_context(module.register_forward_pre_hook(layer.enter, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(layer.leave))
        yield


def _strided_depthwise(module: nn.Conv2d) -> bool:
    return module.groups == module.in_channels > 1 and max(module.stride) > 1


class _InFloat32:
    """Hooks before and after a layer's forward that runs in float32 although the others do not."""

    def __init__(self) -> None:
        self.half: list[bool] = []  # of the calls that have begun, whether those around them are in bfloat16

    def enter(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        self.half.append(torch.is_autocast_enabled("cpu"))
        if not self.half[-1]:
            return None
        torch.set_autocast_enabled("cpu", False)
        return tuple(each.float() for each in args), {name: each.float() for name, each in named.items()}

    def leave(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not self.half.pop():
            return output
        torch.set_autocast_enabled("cpu", True)
        return output.bfloat16()
