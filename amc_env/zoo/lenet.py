"""The LeNets that Deep Compression compresses.

*Sources*: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; in the sizes of
Han et al., "Deep Compression", ICLR 2016, tables 2 and 3. Those of LeNet-5 are from Caffe's MNIST example.
"""

from collections import OrderedDict

from torch import nn

from amc_env.zoo.blocks import initialise


def lenet300_100(*, classes: int, in_channels: int, side: int = 28) -> nn.Sequential:
    """Two hidden linear layers, of 300 and 100; ``side`` is the images' height and width in pixels."""
    if side < 1:
        raise ValueError(f"side is the images' height and width in pixels, at least 1, not {side}")
    layers: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten(1)),
        ("ip1", nn.Linear(in_channels * side * side, 300)),
        ("relu1", nn.ReLU(inplace=True)),
        ("ip2", nn.Linear(300, 100)),
        ("relu2", nn.ReLU(inplace=True)),
        ("ip3", nn.Linear(100, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def lenet5(*, classes: int, in_channels: int, side: int = 28) -> nn.Sequential:
    """5x5 convolutions of 20 and 50, each max-pooled, then a linear layer of 500 with the only ReLU."""
    left = ((side - 4) // 2 - 4) // 2
    if left < 1:
        raise ValueError(
            f"two 5x5 convolutions and two poolings need a side of at least 16 pixels, not {side}"
        )
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(in_channels, 20, 5)),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(20, 50, 5)),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten(1)),
        ("ip1", nn.Linear(50 * left * left, 500)),
        ("relu1", nn.ReLU(inplace=True)),
        ("ip2", nn.Linear(500, classes)),
    ]
    model = nn.Sequential(OrderedDict(layers))
    initialise(model)
    return model
