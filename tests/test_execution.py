"""The choice of the device, and evaluation mode."""

import pytest
import torch
from torch import nn

from amc_env.execution import DeviceError, device_of, evaluating


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"finds no GPU; use device=cpu or device=auto"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")
    assert device_of("cpu") == torch.device("cpu")


def test_an_unknown_device_is_an_error():
    with pytest.raises(DeviceError, match="unknown device 'gpu'; there are auto, cpu, cuda"):
        device_of("gpu")


class Windowed(nn.Module):
    """Makes a tensor at its first call and keeps it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)
        self.window = None

    def forward(self, x):
        x = self.first(x).relu()
        if self.window is None:
            self.window = torch.hann_window(x.shape[-1])[:, None] + 1
        return self.last((x * self.window).mean((2, 3)))


def test_a_network_that_keeps_a_tensor_can_be_trained_after_it_was_evaluated():
    model = Windowed()
    with evaluating(model):
        model(torch.rand(2, 1, 8, 8))
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert model.first.weight.grad is not None
