"""Where compressed networks are run, and how."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

DEVICES = ("auto", "cpu", "cuda")


class DeviceError(ValueError):
    """A device that is not there."""


def device_of(name: str) -> torch.device:
    """The device of a name in `DEVICES`; "auto" is a GPU where PyTorch finds one.

    Raises:
        DeviceError: for another name, and for "cuda" where there is none.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; there are {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        raise DeviceError(
            f"device=cuda, but PyTorch (CUDA {built}) finds no GPU; use device=cpu or device=auto"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; where it does not, that is tens of times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@dataclass(frozen=True)
class Execution:
    """How a network is run.

    Attributes:
        device: of its weights and images.
        bfloat16: multiply in bfloat16 (autocast), for tensor cores and AVX-512; elsewhere slower, and always
            less exact.
        compile: by `torch.compile`. A plan whose network has shapes of its own is compiled anew, which takes
            seconds: it pays where a plan is run on very many images, or on a GPU, see `evaluator.surgeon`.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bfloat16: bool = False
    compile: bool = False

    def place(self, value: Tensor) -> Tensor:
        """A tensor on the device."""
        return value.to(self.device, non_blocking=True)

    @property
    def fuses(self) -> bool:
        """Whether networks are run as `amc_env.fusion` has them; a compiler fuses by itself."""
        return self.device.type == "cpu" and not self.bfloat16 and not self.compile

    def ready(self, network: nn.Module) -> nn.Module:
        """A network on the device, as it is to be called."""
        if not self.compile:
            return network
        torch.compiler.reset()  # what was compiled has the shapes of the plan before
        compiled = torch.compile(network)
        assert isinstance(compiled, nn.Module)
        return compiled

    def logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """``(n, classes)`` float32 of images on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = network(images)
        return logits.float()

    def __str__(self) -> str:
        """What a result may depend on, in words."""
        parts = [self.device.type, *(name for name in ("bfloat16", "compile") if getattr(self, name))]
        return " ".join(parts)


CPU = Execution()
