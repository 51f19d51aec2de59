"""Which layers write into a sum with a shortcut, so that they can make up for the shortcut's errors too.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, section 3.3: the last layer of a residual branch is
refitted to Y₁ + Y₂ - Y₂', where Y₂' is what the pruned network carries past the branch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amc_env.graph.structure import Graph, Layer

CLOSE = 1e-3  # of the largest value: a sum in another order differs by some 1e-6


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A layer whose outputs are added to what an earlier layer reads; a later one reads the sum.

    Example: in ResNet-20 ``layer`` is a block's second convolution, ``entry`` its first, ``exit`` the first
    of the next block.
    """

    layer: Layer
    entry: Layer
    exit: Layer


def shortcuts(graph: Graph) -> list[Shortcut]:
    """The candidates: layers whose outputs must have the channels of an earlier layer's inputs.

    Whether the two are added, and nothing else, is seen from their values by `is_sum`.
    """
    found, once = [], [layer for layer in graph.layers if layer.calls == 1]
    for at, layer in enumerate(once):
        readers = [
            other
            for other in once
            if other.kind != "linear"
            and other.in_size == layer.out_size
            and np.array_equal(other.reads, layer.writes)
        ]
        before = [other for other in readers if other in once[:at]]
        after = [other for other in readers if other in once[at + 1 :]]
        if layer.kind == "conv" and before and after:
            found.append(Shortcut(layer, before[-1], after[0]))
    return found


def pixels(x: Tensor, at: Tensor) -> Tensor:
    """``(images * points, C)`` the channels of images ``(N, C, H, W)`` at positions ``(N, points)`` int64."""
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.size(1))
    first = torch.arange(len(x), device=x.device)[:, None] * (x.size(2) * x.size(3))
    return flat.index_select(0, (at.to(x.device) + first).flatten())


def is_sum(total: Tensor, found: Tensor) -> bool:
    """Whether the next layer reads a plain sum, or the sum after a ReLU or ReLU6.

    Args:
        total: ``(rows, C)`` the branch's output and the shortcut, added.
        found: ``(rows, C)`` what the next layer reads there.
    """
    near = CLOSE * float(total.abs().max())
    clamped = [total, total.clamp_min(0), total.clamp(0, 6)]
    return any(float((found - each).abs().max()) <= near for each in clamped)
