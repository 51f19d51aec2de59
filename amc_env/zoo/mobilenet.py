"""MobileNet V1 and V2: depthwise convolutions for space, pointwise ones for channels.

*Sources*: Howard et al., "MobileNets", arXiv 1704.04861, table 1; Sandler et al., "MobileNetV2", CVPR 2018,
table 2.

``small`` is for images of 28 or 32 pixels: the first two halvings of the resolution are left out, so that
such an image ends as 4x4 where one of 224 pixels ends as 7x7. There is no dropout: it draws from torch's
global generator.
"""

from torch import Tensor, nn

from amc_env.zoo.blocks import Classifier, conv_bn, conv_bn_relu

V1_BLOCKS = (  # output channels and stride of each depthwise-separable block, after a stem of 32
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
V2_STAGES = (  # expansion, output channels, blocks, stride of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNet(Classifier):
    """A chain of blocks, global average, linear classifier."""


def mobilenet_v1(*, classes: int, in_channels: int, width: float = 1.0, small: bool = True) -> MobileNet:
    """MobileNet V1; ``width`` scales every layer's channels."""
    c_in = scaled(32, width)
    blocks: list[nn.Module] = [conv_bn_relu(in_channels, c_in, 1 if small else 2)]
    halvings = 1
    for channels, stride in V1_BLOCKS:
        halvings += stride - 1
        c_out = scaled(channels, width)
        blocks.append(separable(c_in, c_out, 1 if small and halvings <= 2 else stride))
        c_in = c_out
    return MobileNet(nn.Sequential(*blocks), nn.Linear(c_in, classes))


def mobilenet_v2(*, classes: int, in_channels: int, width: float = 1.0, small: bool = True) -> MobileNet:
    """MobileNet V2; ``width`` scales every layer's channels, the last convolution's only upwards."""
    c_in = scaled(32, width)
    blocks: list[nn.Module] = [conv_bn_relu(in_channels, c_in, 1 if small else 2, relu=nn.ReLU6)]
    halvings = 1
    for expansion, channels, count, first_stride in V2_STAGES:
        halvings += first_stride - 1
        c_out = scaled(channels, width)
        for block in range(count):
            stride = first_stride if block == 0 and not (small and halvings <= 2) else 1
            blocks.append(InvertedResidual(c_in, c_out, stride, expansion))
            c_in = c_out
    head = scaled(1280, max(1.0, width))
    blocks.append(conv_bn_relu(c_in, head, kernel=1, relu=nn.ReLU6))
    return MobileNet(nn.Sequential(*blocks), nn.Linear(head, classes))


def separable(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """A 3x3 depthwise and a 1x1 pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(conv_bn_relu(c_in, c_in, stride, groups=c_in), conv_bn_relu(c_in, c_out, kernel=1))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project without activation; a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = c_in * expansion
        layers = [] if expansion == 1 else [conv_bn_relu(c_in, middle, kernel=1, relu=nn.ReLU6)]
        layers.append(conv_bn_relu(middle, middle, stride, groups=middle, relu=nn.ReLU6))
        layers.append(conv_bn(middle, c_out))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``(N, C, H, W)``."""
        out: Tensor = x + self.body(x) if self.residual else self.body(x)
        return out


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, at least 8 and at most a tenth below.

    *Source*: ``_make_divisible`` of the TensorFlow reference; the published widths of V1 need no rounding.
    """
    if not width > 0:
        raise ValueError(f"width is a factor above 0 (published: 0.25 to 1.4), not {width}")
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
