"""Low rank: two thin layers replace one layer.

*Sources*: Zhang et al., "Accelerating Very Deep Convolutional Networks", 2016, for the split by channel that
keeps the largest part of the outputs rather than of the weights; Jaderberg et al., "Speeding up Convolutional
Neural Networks with Low Rank Expansions", 2014, for the spatial split.
"""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from amc_env import checks
from amc_env.compressors.layers import FLOAT, names_of
from amc_env.cost import Ints, weights
from amc_env.graph.layers import unchanged
from amc_env.graph.structure import Layer
from amc_env.repair.moments import Moments

FACTORINGS = ("channel", "spatial")
COSTS = ("macs", "params")  # that a rank must lower
DAMPING = 1e-6  # of the mean diagonal, before a system is solved
NOTHING = 1e-20  # mean square of inputs below which they say nothing about outputs


class RankError(ValueError):
    """Ranks that a network's layers cannot have."""


class LowRank:
    """Keeps some ranks of a layer: the first of two layers has this number of outputs.

    A linear layer becomes two. A k x k convolution becomes one with few outputs and a 1 x 1 ("channel"), or a
    k x 1 and a 1 x k ("spatial", where it has both sides). A rank that leaves as many weights or MACs as
    before is not possible; layers with channel groups, hooks or a forward of their own stay whole.

    Args:
        model: the dense network.
        moments: of it, to keep the largest part of the outputs; None to keep that of the weights.
        split: one of `FACTORINGS`.
        floor: the smallest fraction of the rank that may be kept, in (0, 1].
    """

    name = "low_rank"

    def __init__(self, model: nn.Module, moments: Moments | None, *, split: str, floor: float) -> None:
        checks.one_of("split", split, FACTORINGS)
        self.split, self._model, self._moments, self._floor = split, model, moments, floor
        self._bases: dict[str, Tensor] = {}

    def choices(self, layer: Layer) -> Ints:
        """Ranks that save something, and the full rank, which is the whole layer."""
        module = self._model.get_submodule(layer.name)
        if type(module) not in (nn.Conv2d, nn.Linear) or layer.groups > 1 or not unchanged(module):
            return np.zeros(0, dtype=np.int64)
        full = min(self._per_rank(layer))
        ranks = np.arange(max(1, int(np.ceil(full * self._floor - 1e-9))), full)
        pays = [self.costs(layer, resource)[ranks] < self.costs(layer, resource)[-1] for resource in COSTS]
        ranks = ranks[np.all(pays, axis=0)]
        return np.append(ranks, full) if len(ranks) else ranks

    def costs(self, layer: Layer, resource: str) -> Ints:
        """Of both layers; the full rank is the dense layer."""
        one, two = self._per_rank(layer)
        ranks, total = np.arange(min(one, two) + 1), weights(layer, layer.c_in, layer.c_out)
        if resource == "macs":
            before = self._vertical_positions(layer) if self._spatial(layer) else layer.positions
            each, dense = one * before + two * layer.positions, total * layer.positions
        else:
            scale = FLOAT if resource == "bits" else 1
            each, dense = (one + two) * scale, total * scale
        costs = ranks * each
        costs[-1] = dense
        return costs

    def module(self, layer: Layer, count: int) -> nn.Module:
        """The two layers, as ``first`` and ``second``."""
        dense = self._model.get_submodule(layer.name)
        pair = blank(dense, count, spatial=self._spatial(layer))
        weight = dense.get_parameter("weight").detach().double().cpu()
        if self._spatial(layer):
            first, second = self._spatial_weights(layer, weight, count)
        else:
            first, second = self._channel_weights(layer, weight, count)
        with torch.no_grad():
            for name, value in (("first.weight", first), ("second.weight", second)):
                pair.get_parameter(name).copy_(value)
            if layer.bias:
                pair.get_parameter("second.bias").copy_(dense.get_parameter("bias"))
        for name, parameter in pair.named_parameters():
            parameter.requires_grad_(dense.get_parameter(name.rpartition(".")[2]).requires_grad)
        return pair.train(dense.training)

    def _channel_weights(self, layer: Layer, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """U (Uᵀ W): outputs projected on the directions in which they are largest."""
        if layer.name not in self._bases:
            flat = weight.flatten(1)
            outputs = flat @ self._gram(layer, flat.size(1)) @ flat.T
            self._bases[layer.name] = torch.linalg.eigh(outputs).eigenvectors.flip(1)  # largest first
        basis = self._bases[layer.name][:, :rank]
        first = (basis.T @ weight.flatten(1)).view(rank, *weight.shape[1:])
        return first, basis.view(*basis.shape, *(1,) * (weight.ndim - 2))

    def _spatial_weights(self, layer: Layer, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """The vertical part from a weighted SVD, then the horizontal part by least squares on the outputs."""
        n, c, high, wide = weight.shape
        gram = self._gram(layer, c * high * wide)
        down = gram.view(c * high, wide, c * high, wide).diagonal(dim1=1, dim2=3).mean(-1)
        root = torch.linalg.cholesky(_damped(down))
        matrix = weight.permute(1, 2, 0, 3).reshape(c * high, n * wide)
        left, _, _ = torch.linalg.svd(root.T @ matrix, full_matrices=False)
        vertical = torch.linalg.solve_triangular(root.T, left[:, :rank], upper=True)  # (c high, rank)
        spread = torch.einsum("dr,vw->rvdw", vertical, torch.eye(wide, dtype=torch.float64))
        through = spread.reshape(rank * wide, c * high * wide)  # input to intermediate values
        both = _damped(through @ gram @ through.T)
        horizontal = torch.linalg.solve(both, through @ gram @ weight.flatten(1).T).T
        return vertical.T.view(rank, c, high, 1), horizontal.view(n, rank, 1, wide)

    def _gram(self, layer: Layer, inputs: int) -> Tensor:
        """``(d, d)`` float64: E[x xᵀ], or the identity if it is unknown."""
        known = None if self._moments is None else self._moments.damped(layer.name, 0)
        if known is None or float(known.diagonal().mean()) < NOTHING:
            return torch.eye(inputs, dtype=torch.float64)
        return known.cpu()

    def _spatial(self, layer: Layer) -> bool:
        return self.split == "spatial" and min(layer.kernel) > 1

    def _vertical_positions(self, layer: Layer) -> int:
        """The outputs of the k x 1 convolution in one channel: it does not pad the width."""
        module = self._model.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d)
        width = layer.in_size[1]
        if module.padding_mode != "zeros":  # a convolution that pads by itself was traced on the padded image
            width -= sum(module._reversed_padding_repeated_twice[:2])
        return layer.out_size[0] * width * layer.calls

    def _per_rank(self, layer: Layer) -> tuple[int, int]:
        """The number of weights for each rank in both layers; the smaller one is the full rank."""
        high, wide = layer.kernel
        if self._spatial(layer):
            return layer.c_in * high, layer.c_out * wide
        return layer.c_in * layer.taps, layer.c_out


def blank(dense: nn.Module, rank: int, *, spatial: bool) -> nn.Sequential:
    """Two layers of the dense one's type that replace it, without weights yet; nothing is drawn for them."""
    bias = dense.bias is not None
    if isinstance(dense, nn.Linear):
        of_type = {"dtype": dense.weight.dtype}
        pair: list[nn.Module] = [
            skip_init(nn.Linear, dense.in_features, rank, bias=False, **of_type),
            skip_init(nn.Linear, rank, dense.out_features, bias=bias, **of_type),
        ]
    else:
        assert isinstance(dense, nn.Conv2d)
        pair = _convolutions(dense, rank, bias, spatial)
    return nn.Sequential(OrderedDict(zip(("first", "second"), pair, strict=True)))


def factored(model: nn.Module, ranks: Mapping[str, int], split: object) -> nn.Module:
    """Replace each named layer by two layers, without weights yet.

    Args:
        model: the dense network; changed in place.
        ranks: by name of a layer; both this and ``split`` may come from a file.
        split: one of `FACTORINGS`.

    Raises:
        RankError: for an impossible layer or rank.
    """
    modules, names = dict(model.named_modules()), names_of(model)
    if split not in FACTORINGS or not isinstance(ranks, dict):
        possible = ", ".join(FACTORINGS)
        raise RankError(f"ranks by layer and a split of {possible} are needed, not {ranks}, {split}")
    for name, rank in ranks.items():
        dense = modules.get(name)
        if not isinstance(dense, nn.Conv2d | nn.Linear):
            raise RankError(f"{name} is no convolution or linear layer of the network")
        most = dense.weight[0].numel() * len(dense.weight)
        if type(rank) is not int or not 1 <= rank <= most:
            raise RankError(f"the rank of {name} is {rank}, not a whole number from 1 on")
        spatial = split == "spatial" and isinstance(dense, nn.Conv2d) and min(dense.kernel_size) > 1
        module = blank(dense, rank, spatial=spatial)
        for each in names[name]:
            model.set_submodule(each, module)
    return model


def _convolutions(dense: nn.Conv2d, rank: int, bias: bool, spatial: bool) -> list[nn.Module]:
    if not spatial:
        return [
            _like(dense, dense.in_channels, rank, (0, 1)),
            skip_init(nn.Conv2d, rank, dense.out_channels, 1, bias=bias, dtype=dense.weight.dtype),
        ]
    return [
        _like(dense, dense.in_channels, rank, (0,)),
        _like(dense, rank, dense.out_channels, (1,), bias=bias),
    ]


def _like(
    dense: nn.Conv2d, reads: int, writes: int, sides: tuple[int, ...], *, bias: bool = False
) -> nn.Conv2d:
    """A convolution with the dense one's kernel size, stride and padding on some axes only."""

    def on(values: tuple[int, ...], neutral: int) -> tuple[int, int]:
        high, wide = (value if side in sides else neutral for side, value in enumerate(values))
        return high, wide

    padding = dense.padding if isinstance(dense.padding, str) else on(dense.padding, 0)
    made: nn.Conv2d = skip_init(
        nn.Conv2d, reads, writes, on(dense.kernel_size, 1), on(dense.stride, 1), padding,
        on(dense.dilation, 1), bias=bias, padding_mode=dense.padding_mode, dtype=dense.weight.dtype,
    )  # fmt: skip
    return made


def _damped(matrix: Tensor) -> Tensor:
    """The matrix with a small positive number added to its diagonal."""
    mean = (DAMPING * matrix.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny)
    return matrix + mean * torch.eye(len(matrix), dtype=matrix.dtype)
