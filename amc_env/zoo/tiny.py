"""Networks small enough to train in seconds, for fast tests and exhaustively evaluated benchmarks."""

from collections.abc import Callable, Sequence

from torch import nn

from amc_env.zoo.blocks import Classifier, conv_bn_relu
from amc_env.zoo.mobilenet import separable
from amc_env.zoo.resnet import basic

Block = Callable[[int, int, int], nn.Module]  # input channels, output channels, stride

BLOCKS: dict[str, Block] = {
    "plain": conv_bn_relu,
    "grouped": lambda c_in, c_out, stride: conv_bn_relu(c_in, c_out, stride, groups=2),
    "depthwise": separable,
    "residual": basic,
}


class TinyCNN(Classifier):
    """A stem and blocks, each with batch norm and ReLU, global average, linear classifier.

    Args:
        classes: number of logits.
        in_channels: channels of the images.
        widths: output channels of the stem and of each block.
        strides: likewise.
        stem: kernel of the stem.
        block: a key of `BLOCKS`: a 3x3 convolution, one in two groups, a depthwise and a 1x1 convolution, or
            a residual block of two 3x3 convolutions.

    Raises:
        ValueError: for another block.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        stem: int = 3,
        block: str = "plain",
    ) -> None:
        if block not in BLOCKS:
            raise ValueError(f"there is no block {block!r}; there are {', '.join(BLOCKS)}")
        shapes = zip(widths[:-1], widths[1:], strides[1:], strict=True)
        blocks = (BLOCKS[block](*shape) for shape in shapes)
        features = nn.Sequential(conv_bn_relu(in_channels, widths[0], strides[0], stem), *blocks)
        super().__init__(features, nn.Linear(widths[-1], classes))


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
