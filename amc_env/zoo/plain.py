"""Plain networks: 3x3 convolutions, batch norm and ReLU, no shortcuts.

*Source*: He et al., "Deep Residual Learning", CVPR 2016, section 4.2 (the plain counterparts of the CIFAR
ResNets); AMC, table 2, prunes Plain-20.
"""

from torch import nn

from amc_env.zoo.blocks import Classifier, conv_bn_relu, thinned


class Plain(Classifier):
    """A plain CIFAR network of depth ``6 n + 2``: three stages, the resolution halved between them.

    Args:
        depth: layers, the classifier included.
        classes: number of logits.
        in_channels: channels of the images.
        width: factor of the stages' 16, 32 and 64 channels.
    """

    def __init__(self, depth: int = 20, classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        if depth % 6 != 2 or depth < 8:
            raise ValueError(f"a plain CIFAR network has depth 6 n + 2 (8, 14, 20, ...), not {depth}")
        blocks = (depth - 2) // 3
        channels = [thinned(16 << stage, width) for stage in range(3)]
        c_in = channels[0]
        layers: list[nn.Module] = [conv_bn_relu(in_channels, c_in)]
        for stage, c_out in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(conv_bn_relu(c_in, c_out, stride))
                c_in = c_out
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, classes))
