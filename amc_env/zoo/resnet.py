"""Residual networks: the CIFAR ResNets of depth 6 n + 2, and ResNet-50.

*Source*: He et al., "Deep Residual Learning", CVPR 2016, sections 3.3, 4.1 and 4.2. Two differences:

- Where the shape changes, the shortcut is a 1x1 convolution with batch norm (option B) on CIFAR too, where
  the paper pads with zero channels (option A). A padded identity puts channel i of one stage on another
  position of the next and so ties stages of different widths: no channel of one can be cut alone.
- The stride of a bottleneck is on its 3x3 convolution, as in torchvision, not on the first 1x1.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from amc_env.zoo.blocks import conv_bn, conv_bn_relu, initialise


class Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``, where the shortcut is a projection if the shape changes."""

    def __init__(self, body: nn.Module, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = c_in == c_out and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(c_in, c_out, stride=stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``(N, C, H, W)``."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def basic(c_in: int, width: int, stride: int) -> Residual:
    """Two 3x3 convolutions with ``width`` output channels."""
    body = nn.Sequential(conv_bn_relu(c_in, width, stride), conv_bn(width, width, 3))
    return Residual(body, c_in, width, stride)


def bottleneck(c_in: int, width: int, stride: int) -> Residual:
    """1x1 down to ``width`` channels, 3x3, 1x1 up to four times as many."""
    body = nn.Sequential(
        conv_bn_relu(c_in, width, kernel=1), conv_bn_relu(width, width, stride), conv_bn(width, 4 * width)
    )
    return Residual(body, c_in, 4 * width, stride)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear classifier."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[Sequence[nn.Module]], features: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(features, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))
        return logits


def cifar_resnet(depth: int, *, classes: int, in_channels: int) -> ResNet:
    """A CIFAR ResNet of depth ``6 n + 2``: three stages of n basic blocks, widths 16, 32, 64."""
    if depth % 6 != 2 or depth < 8:
        raise ValueError(f"a CIFAR ResNet has depth 6 n + 2 (8, 14, 20, ...), not {depth}")
    count = (depth - 2) // 6
    stages = [[basic(16, 16, 1) for _ in range(count)]]
    for width in (32, 64):
        stages.append([basic(width // 2, width, 2), *(basic(width, width, 1) for _ in range(count - 1))])
    return ResNet(conv_bn_relu(in_channels, 16), stages, 64, classes)


def resnet50(*, classes: int, in_channels: int, small: bool = True) -> ResNet:
    """ResNet-50; ``small`` has a 3x3 stem and no max-pooling, so that 32x32 images end as 4x4."""
    stem: nn.Module = conv_bn_relu(in_channels, 64)
    if not small:
        stem = nn.Sequential(conv_bn_relu(in_channels, 64, 2, kernel=7), nn.MaxPool2d(3, 2, padding=1))
    stages, c_in = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        first = bottleneck(c_in, width, stride)
        c_in = 4 * width
        stages.append([first, *(bottleneck(c_in, width, 1) for _ in range(count - 1))])
    return ResNet(stem, stages, c_in, classes)
