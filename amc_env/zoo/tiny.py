"""Networks small enough to train in seconds, for fast tests and exhaustively evaluated benchmarks."""

from collections.abc import Sequence

from torch import Tensor, nn

from amc_env.zoo.blocks import conv_bn_relu, initialise


class TinyCNN(nn.Module):
    """Convolutions with batch norm and ReLU, global average, linear classifier.

    Args:
        classes: number of logits.
        in_channels: channels of the images.
        widths: output channels of each convolution.
        strides: of each convolution.
        stem: kernel of the first one; all others are 3x3.
    """

    def __init__(
        self, *, classes: int, in_channels: int, widths: Sequence[int], strides: Sequence[int], stem: int = 3
    ) -> None:
        super().__init__()
        kernels = (stem, *(3 for _ in widths[1:]))
        shapes = zip((in_channels, *widths), widths, strides, kernels, strict=False)
        self.features = nn.Sequential(*(conv_bn_relu(*shape) for shape in shapes))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, in_channels, H, W)``."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def digits_cnn(*, classes: int, in_channels: int) -> TinyCNN:
    """For 8x8 images: widths 16 to 64 at resolutions 8, 8, 4, 4, 2."""
    return TinyCNN(
        classes=classes, in_channels=in_channels, widths=(16, 16, 32, 32, 64), strides=(1, 1, 2, 1, 2)
    )


def fashion_cnn(*, classes: int, in_channels: int) -> TinyCNN:
    """For 28x28 images: widths 8 to 32 at resolutions 7, 7, 4, 4, 2, behind a 7x7 stem."""
    return TinyCNN(
        classes=classes,
        in_channels=in_channels,
        widths=(8, 16, 16, 32, 32),
        strides=(4, 1, 2, 1, 2),
        stem=7,
    )
