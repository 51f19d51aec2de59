"""What several families share: a convolution with its batch norm, a network around it, initial weights."""

import math

from torch import Tensor, nn


class Classifier(nn.Module):
    """Features, an average over ``pool`` x ``pool`` parts of the image, classifier."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module, pool: int = 1) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = classifier
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def conv_bn(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, padded to keep the resolution at stride 1, and its batch norm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def conv_bn_relu(
    c_in: int, c_out: int, stride: int = 1, kernel: int = 3, groups: int = 1, relu: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """A convolution without bias, its batch norm, and ReLU or another in-place activation."""
    return nn.Sequential(*conv_bn(c_in, c_out, kernel, stride, groups), relu(inplace=True))


def thinned(channels: int, width: float) -> int:
    """Channels times a width multiplier, rounded, at least 1.

    *Source*: Howard et al., "MobileNets" (2017), section 3.3.
    """
    if not width > 0:
        raise ValueError(f"width is a factor of every layer's channels, above 0, not {width}")
    return max(1, round(channels * width))


def initialise(model: nn.Module) -> None:
    """He et al. (2015) normal weights, scaled by the fan-out of a group, for every convolution.

    torch's own ``kaiming_normal_`` takes the fan-out of all groups together, which makes the weights of a
    depthwise convolution too small by the square root of its channels.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2.0) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
