"""Mixed precision on a processor: what runs in bfloat16, what does not, and what is left behind."""

import pytest
import torch
from torch import Tensor, nn

from experiments.training.mixed import in_bfloat16

CPU = torch.device("cpu")


class Net(nn.Module):
    """A pointwise layer, a strided depthwise one, and another after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.strided = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.strided(input=self.first(x))).mean((2, 3))


def dtypes(net: nn.Module, images: Tensor) -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """By layer, the dtype in which it multiplied and that of what it returned."""
    found = {}

    def note(name: str, output: Tensor) -> None:
        multiplied = torch.float32 if not torch.is_autocast_enabled("cpu") else torch.bfloat16
        found[name] = (multiplied, output.dtype)

    plain = nn.Conv2d._conv_forward

    def conv(self: nn.Conv2d, x: Tensor, *rest: object) -> Tensor:
        output = plain(self, x, *rest)
        note(next(name for name, module in net.named_modules() if module is self), output)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "_conv_forward", conv)
        net(images)
    return found


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_only_strided_depthwise_layers_stay_in_float32(images: Tensor) -> None:
    net = Net()
    with in_bfloat16(net, CPU):
        found = dtypes(net, images)
        assert net(images).dtype == torch.bfloat16
    half, full = torch.bfloat16, torch.float32
    assert found == {"first": (half, half), "strided": (full, full), "last": (half, half)}


def test_the_gradient_is_that_of_bfloat16_or_better(images: Tensor) -> None:
    def gradient(half: bool) -> Tensor:
        torch.manual_seed(0)
        net = Net()
        if half:
            with in_bfloat16(net, CPU):
                logits = net(images)
        else:
            logits = net(images)
        logits.float().square().sum().backward()
        return torch.cat([each.grad.flatten() for each in net.parameters() if each.grad is not None])

    exact = gradient(half=False)
    assert (gradient(half=True) - exact).norm() < 0.02 * exact.norm()


def test_the_network_is_left_as_it_was(images: Tensor) -> None:
    net = Net()
    before = net(images)
    with in_bfloat16(net, CPU):
        net(images)
    with pytest.raises(RuntimeError, match="expected"), in_bfloat16(net, CPU):
        net.strided(images)  # of 3 channels, not 8
    assert not torch.is_autocast_enabled("cpu")
    assert not net.strided._forward_hooks
    assert not net.strided._forward_pre_hooks
    assert torch.equal(net(images), before)


def test_a_part_that_chooses_float32_keeps_it(images: Tensor) -> None:
    class Own(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                assert super().forward(x).dtype == torch.float32
                assert not torch.is_autocast_enabled("cpu")
            return super().forward(x)

    net = Own()
    with in_bfloat16(net, CPU):
        assert net(images).dtype == torch.bfloat16
