"""The choice of the device, and evaluation mode."""

import pytest
import torch

from amc_env.execution import DeviceError, device_of


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
