"""Networks small enough to trace, cut and run in milliseconds, with random weights; images are 1 x 8 x 8."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amc_env.data.splits import DataSet, from_tensors

SHAPE, CLASSES = (1, 8, 8), 4


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def chain() -> nn.Module:
    return nn.Sequential(conv(1, 8), conv(8, 12, stride=2), conv(12, 16), head(16))


def separable() -> nn.Module:
    return nn.Sequential(
        conv(1, 8),
        conv(8, 8, groups=8),
        conv(8, 16, 1),
        conv(16, 16, stride=2, groups=16),
        conv(16, 24, 1),
        head(24),
    )


def grouped() -> nn.Module:
    return nn.Sequential(conv(1, 8), conv(8, 16, groups=2), conv(16, 12, 1), head(12))


class Residual(nn.Module):
    """Two additions onto one trunk of 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(1, 12), conv(12, 8), conv(8, 12)
        self.three, self.four, self.head = conv(12, 10), conv(10, 12), head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.two(self.one(x))
        x = x + self.four(self.three(x))
        return self.head(x)


class Concat(nn.Module):
    """Dense connectivity: each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = conv(1, 8), conv(8, 6), conv(14, 10), head(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.one(x)], 1)
        x = torch.cat([x, self.two(x)], 1)
        return self.head(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": chain, "separable": separable, "grouped": grouped, "residual": Residual, "concat": Concat,
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
