"""VGG-16: thirteen 3x3 convolutions in five stages.

*Sources*: Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration D, for 224
pixels; Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, table 1, for CIFAR: with batch norm
and a small classifier, here one linear layer.
"""

from itertools import pairwise

from torch import nn

from amc_env.zoo.blocks import Classifier, conv_bn_relu, thinned

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(Classifier):
    """Convolutions, pooling to a fixed size, classifier."""


def vgg16(*, classes: int, in_channels: int, small: bool = True, width: float = 1.0) -> VGG:
    """VGG-16; ``small`` for 28 or 32 pixels has batch norm and averages where the fifth max-pooling was.
    ``width`` scales the channels of every convolution.

    At 224 pixels the original has biases and no batch norm, and two hidden linear layers of 4096. Their
    dropout is left out: it draws from torch's global generator.
    """
    layers: list[nn.Module] = []
    for stage in STAGES:
        for channels in (thinned(each, width) for each in stage):
            layers.append(conv_bn_relu(in_channels, channels) if small else _conv_relu(in_channels, channels))
            in_channels = channels
        layers.append(nn.MaxPool2d(2, ceil_mode=small))  # 28 pixels: 14, 7, 4, 2
    if small:
        return VGG(nn.Sequential(*layers[:-1]), nn.Linear(in_channels, classes))
    classifier: list[nn.Module] = []
    for n_in, n_out in pairwise((in_channels * 7 * 7, 4096, 4096)):
        classifier += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
    classifier.append(nn.Linear(4096, classes))
    return VGG(nn.Sequential(*layers), nn.Sequential(*classifier), pool=7)


def _conv_relu(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True))
