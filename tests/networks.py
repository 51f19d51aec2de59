"""Networks small enough to trace, cut and run in milliseconds, with random weights.

`NETS`, for images of 2 x 8 x 8, has one for each way in which channels depend on each other. `NETWORKS`, for
the data set `images` of 1 x 8 x 8, are built of blocks of a convolution, batch norm and ReLU.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.data.splits import DataSet
from amc_env.data.tensors import from_tensors
from amc_env.graph.structure import Graph
from amc_env.plan import Plan

PAIR = (2, 8, 8)  # of `NETS`, which have three classes
SHAPE, CLASSES = (1, 8, 8), 4  # of `NETWORKS`


def head(features: int, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


class Net(nn.Module):
    """Modules and parameters by name, and a forward that is given as a function of them and of the images."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.body = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def conv(c_in: int, c_out: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, **settings)


def ready(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with random weights of every kind that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            small = value.ndim > 1 and value.numel() > max(value.shape)
            fan_in = value[0].numel() if small else 1
            value.copy_(noise.abs() + 0.5 if "running_var" in name else noise / fan_in**0.5)
    return network.eval()


def pixels(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *PAIR, generator=torch.Generator().manual_seed(seed))


def random_plan(graph: Graph, seed: int) -> Plan:
    """From one to all channels of each group."""
    generator, plan = np.random.default_rng(seed), Plan.dense(graph)
    for group in graph.groups:
        kept = generator.permutation(len(group))[: generator.integers(1, len(group) + 1)]
        plan = plan.with_group(group.index, tuple(np.sort(kept).tolist()))
    return plan


def chain() -> nn.Module:
    first = (conv(2, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(*first, conv(6, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU(), head(8))


def residual() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.norm(m.second(m.first(x).relu()))
        y += x
        return m.head(m.act(y))

    parts = {"stem": conv(2, 6), "first": conv(6, 5), "second": conv(5, 6, 1, bias=False)}
    return Net(forward, **parts, norm=nn.BatchNorm2d(6), act=nn.ReLU(inplace=True), head=head(6))


def concat() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.join(m.norm(torch.cat([m.left(x), m.right(x), m.left(x)], 1)).relu()).relu())

    parts = {"left": conv(2, 4), "right": conv(2, 5, 1), "norm": nn.BatchNorm2d(13)}
    return Net(forward, **parts, join=conv(13, 6), head=head(6))


def depthwise() -> nn.Module:
    tall = conv(5, 10, groups=5)  # two outputs for each input
    wide = conv(10, 10, groups=10, stride=2, bias=False)
    return nn.Sequential(conv(2, 5, 1), nn.ReLU6(), tall, wide, nn.BatchNorm2d(10), conv(10, 4, 1), head(4))


def grouped() -> nn.Module:
    return nn.Sequential(
        conv(2, 8), nn.ReLU(), conv(8, 12, groups=4), nn.BatchNorm2d(12), nn.ReLU(), head(12)
    )


def shuffle() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        n, c, h, w = x.size()
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.head(m.second(x).relu())

    return Net(forward, first=conv(2, 12, 1), second=conv(12, 5), head=head(5))


def chunk() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        kept, worked = m.stem(x).chunk(2, dim=1)
        return m.head(m.mix(torch.cat((kept, m.branch(worked)), dim=1)).relu())

    parts = {"stem": conv(2, 8), "branch": conv(4, 4), "mix": nn.ChannelShuffle(2)}
    return Net(forward, **parts, head=head(8))


def squeeze_excite() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        scale = m.expand(m.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return m.head(m.last(scale.expand_as(x) * x))

    parts = {"squeeze": conv(8, 3, 1), "expand": conv(3, 8, 1), "last": conv(8, 4, 1)}
    return Net(forward, stem=conv(2, 8), **parts, head=head(4))


def flatten_linear() -> nn.Module:
    body = (conv(2, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(3 * 2 * 2, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def layer_norm() -> nn.Module:
    """A ConvNeXt block: depthwise, LayerNorm over channels, two linear layers, layer scale, residual."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.up(m.norm(m.spatial(x).permute(0, 2, 3, 1)))
        y = m.down(F.gelu(y)).permute(0, 3, 1, 2)
        return m.head(x + m.scale * y)

    parts = {"stem": conv(2, 6), "spatial": conv(6, 6, groups=6), "norm": nn.LayerNorm(6)}
    linear = {"up": nn.Linear(6, 10), "down": nn.Linear(10, 6), "scale": nn.Parameter(torch.ones(6, 1, 1))}
    return Net(forward, **parts, **linear, head=head(6))


def group_norm() -> nn.Module:
    norms = nn.GroupNorm(2, 8), nn.GroupNorm(1, 6)
    return nn.Sequential(conv(2, 8), norms[0], nn.ReLU(), conv(8, 6), norms[1], nn.PReLU(6), head(6))


def shared() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(m.again(m.again(x).relu()).relu())

    return Net(forward, stem=conv(2, 6), again=conv(6, 6), head=head(6))


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False)
    down = nn.Conv2d(4, 5, 3, dilation=2, stride=2)
    plain = nn.ConvTranspose2d(5, 6, 2)
    return nn.Sequential(
        conv(2, 6), up, nn.BatchNorm2d(4), nn.ReLU(), down, plain, nn.BatchNorm2d(6), head(6)
    )


def padded_identity() -> nn.Module:
    """The shortcut of a ResNet's option A: fewer positions, zeros for the new channels."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        y = m.second(m.first(x).relu())
        return m.head((y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))).relu())

    return Net(forward, stem=conv(2, 4), first=conv(4, 6, stride=2), second=conv(6, 8), head=head(8))


def frozen_norm() -> nn.Module:
    """Statistics and weights that the forward reshapes and computes with by itself."""

    def forward(m: Any, x: Tensor) -> Tensor:
        scale = m.gain.reshape(1, -1, 1, 1) * (m.deviation.reshape(1, -1, 1, 1).square() + 1e-5).rsqrt()
        return m.head((m.stem(x) * scale + m.bias[None, :, None, None] + m.map).relu())

    parts = {name: nn.Parameter(torch.ones(6)) for name in ("gain", "bias")}
    net = Net(forward, stem=conv(2, 6), **parts, map=nn.Parameter(torch.ones(1, 6, 8, 8)), head=head(6))
    net.register_buffer("deviation", torch.ones(6))
    return net


NETS = {
    net.__name__: net
    for net in (
        chain, residual, concat, depthwise, grouped, shuffle, chunk, squeeze_excite, flatten_linear,
        layer_norm, group_norm, shared, transposed, padded_identity, frozen_norm,
    )
}  # fmt: skip


def block(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def blocks() -> nn.Module:
    return nn.Sequential(block(1, 8), block(8, 12, stride=2), block(12, 16), head(16, CLASSES))


def separable() -> nn.Module:
    return nn.Sequential(
        block(1, 8),
        block(8, 8, groups=8),
        block(8, 16, 1),
        block(16, 16, stride=2, groups=16),
        block(16, 24, 1),
        head(24, CLASSES),
    )


def grouped_blocks() -> nn.Module:
    return nn.Sequential(block(1, 8), block(8, 16, groups=2), block(16, 12, 1), head(12, CLASSES))


class Residual(nn.Module):
    """Two additions onto one trunk of 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = block(1, 12), block(12, 8), block(8, 12)
        self.three, self.four, self.head = block(12, 10), block(10, 12), head(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.two(self.one(x))
        x = x + self.four(self.three(x))
        return self.head(x)


class Concat(nn.Module):
    """Dense connectivity: each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = block(1, 8), block(8, 6), block(14, 10), head(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.one(x)], 1)
        x = torch.cat([x, self.two(x)], 1)
        return self.head(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": blocks, "separable": separable, "grouped": grouped_blocks, "residual": Residual,
    "concat": Concat,
}  # fmt: skip


def network(name: str, seed: int = 0) -> nn.Module:
    """In evaluation mode, batch norm included with random weights; no global generator moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def images(
    count: int = 200, seed: int = 0, classes: int = CLASSES, held_out: tuple[int, int, int] = (40, 40, 40)
) -> DataSet:
    """Noise with random labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count + 20, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count + 20) % classes
    return from_tensors(
        pixels[:count], labels[:count], pixels[count:], labels[count:], seed=seed, name="noise",
        held_out=held_out,
    )  # fmt: skip
