"""A network small enough to train in seconds, for scikit-learn's 8x8 digits and for fast tests."""

from torch import Tensor, nn

from amc_env.zoo.blocks import conv_bn_relu, initialise


class DigitsCNN(nn.Module):
    """Five 3x3 convolutions of widths 16, 16, 32, 32, 64; two of them halve the resolution (8, 4, 2)."""

    def __init__(self, *, classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_relu(in_channels, 16),
            conv_bn_relu(16, 16),
            conv_bn_relu(16, 32, stride=2),
            conv_bn_relu(32, 32),
            conv_bn_relu(32, 64, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
