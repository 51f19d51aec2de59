"""ShuffleNet V1 and V2: cheap pointwise convolutions, and a channel shuffle that mixes their groups.

*Sources*: Zhang et al., "ShuffleNet", CVPR 2018, table 1; Ma et al., "ShuffleNet V2", ECCV 2018, table 5.

``small`` is for images of 28 or 32 pixels: the first two halvings of the resolution (stem and max-pooling)
are left out, so that such an image ends as 4x4.
"""

import torch
from torch import Tensor, nn

from amc_env.zoo.blocks import conv_bn, conv_bn_relu, initialise

UNITS = (4, 8, 4)  # units in each stage; the first of each halves the resolution
V1_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # of stage 2, by groups; doubled in each later stage
V2_CHANNELS = {  # of stages 2 to 4 and of the last convolution, by width
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups, ``(N, C, H, W)``; C is read from the tensor and may shrink."""
    batch, channels, height, width = x.size()
    grouped = x.view(batch, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


class UnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to the input, at stride 2 put beside it."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int, *, first: bool) -> None:
        super().__init__()
        middle = c_out // 4
        self.groups = groups
        self.reduce = conv_bn_relu(c_in, middle, kernel=1, groups=1 if first else groups)
        self.spatial = conv_bn(middle, middle, 3, stride, groups=middle)
        self.expand = conv_bn(middle, c_out if stride == 1 else c_out - c_in, groups=groups)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``(N, C, H, W)``."""
        out: Tensor = self.expand(self.spatial(shuffle(self.reduce(x), self.groups)))
        joined = x + out if self.pool is None else torch.cat((self.pool(x), out), dim=1)
        activated: Tensor = self.relu(joined)
        return activated


class UnitV2(nn.Module):
    """Convolves one half of the channels and passes the other; convolves both at stride 2."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        half = c_out // 2
        self.branch = nn.Sequential(
            conv_bn_relu(half if stride == 1 else c_in, half, kernel=1),
            conv_bn(half, half, 3, stride, groups=half),
            conv_bn_relu(half, half, kernel=1),
        )
        self.shortcut = None
        if stride == 2:
            self.shortcut = nn.Sequential(
                conv_bn(c_in, c_in, 3, stride, groups=c_in), conv_bn_relu(c_in, half, kernel=1)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``(N, C, H, W)``."""
        if self.shortcut is None:
            kept, worked = x.chunk(2, dim=1)
        else:
            kept, worked = self.shortcut(x), x
        return shuffle(torch.cat((kept, self.branch(worked)), dim=1), 2)


class ShuffleNet(nn.Module):
    """Stem, stages of units, a last convolution (V2), global average, linear classifier."""

    def __init__(
        self, stem: nn.Module, units: list[nn.Module], head: nn.Module, features: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.units = nn.Sequential(*units)
        self.head = head
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(features, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.pool(self.head(self.units(self.stem(x)))).flatten(1))
        return logits


def shufflenet_v1(
    *, classes: int, in_channels: int, groups: int = 3, width: float = 1.0, small: bool = True
) -> ShuffleNet:
    """ShuffleNet V1; ``groups`` of the pointwise convolutions, ``width`` scales every layer's channels.

    The very first pointwise convolution is not grouped (section 3.2 of the paper). Scaled channels are
    rounded to a multiple of the groups; none of the published 1x networks needs it. The stem has 24 channels
    at 1.5x too, as in the authors' code, whose cost is the published one.
    """
    if groups not in V1_CHANNELS:
        raise ValueError(f"groups is one of {', '.join(map(str, V1_CHANNELS))}, not {groups}")
    if not width > 0:
        raise ValueError(f"width is a factor above 0 (published: 0.25 to 2), not {width}")
    c_in = _rounded(24 * (width if width < 1 else int(width)), groups)
    stem = _stem(in_channels, c_in, small=small)
    units: list[nn.Module] = []
    c_out = _rounded(V1_CHANNELS[groups] * width, 4 * groups)
    for count in UNITS:
        for unit in range(count):
            units.append(UnitV1(c_in, c_out, 2 if unit == 0 else 1, groups, first=not units))
            c_in = c_out
        c_out *= 2
    return ShuffleNet(stem, units, nn.Identity(), c_in, classes)


def shufflenet_v2(*, classes: int, in_channels: int, width: float = 1.0, small: bool = True) -> ShuffleNet:
    """ShuffleNet V2 in one of the four published widths: 0.5, 1, 1.5, 2."""
    if width not in V2_CHANNELS:
        raise ValueError(f"width is one of {', '.join(map(str, V2_CHANNELS))}, not {width}")
    *stages, features = V2_CHANNELS[width]
    c_in = 24
    stem = _stem(in_channels, c_in, small=small)
    units: list[nn.Module] = []
    for c_out, count in zip(stages, UNITS, strict=True):
        for unit in range(count):
            units.append(UnitV2(c_in, c_out, 2 if unit == 0 else 1))
            c_in = c_out
    return ShuffleNet(stem, units, conv_bn_relu(c_in, features, kernel=1), features, classes)


def _stem(in_channels: int, c_out: int, *, small: bool) -> nn.Module:
    if small:
        return conv_bn_relu(in_channels, c_out)
    return nn.Sequential(conv_bn_relu(in_channels, c_out, 2), nn.MaxPool2d(3, 2, padding=1))


def _rounded(channels: float, multiple: int) -> int:
    """The nearest multiple, halves rounded up; at least one."""
    return max(multiple, int(channels / multiple + 0.5) * multiple)
