"""Weight sharing: a weight is stored in few bits, which select one of a layer's values.

*Source*: Han et al., "Deep Compression", ICLR 2016, section 3.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env import checks
from amc_env.compressors.constraints import Shared, constrain, weight_of
from amc_env.compressors.layers import FLOAT
from amc_env.compressors.sharing import STARTS
from amc_env.cost import Ints, weights
from amc_env.graph.structure import Layer
from amc_env.repair.moments import Moments

MOST_BITS = 8
BITS: Ints = np.arange(1, MOST_BITS + 1)  # on offer; a whole layer is not: 8 bits compute nearly the same
WHOLE = MOST_BITS + 1  # the count of a layer that is left as it is, at 32 bits a weight
DAMPING = 1e-6  # of the mean diagonal, before values are refitted


class WeightSharing:
    """Lets a layer's weights share 2^bits values.

    The values are refitted by least squares on the layer's outputs; the codes are not.

    Args:
        model: the dense network.
        moments: of it; None leaves the values as k-means found them.
        start: of k-means, one of `STARTS`.
        seed: of k-means' random start.
    """

    name = "weight_sharing"

    def __init__(self, model: nn.Module, moments: Moments | None, *, start: str, seed: int) -> None:
        checks.one_of("start", start, STARTS)
        self._model, self._sharing = model, Sharing(moments, start=start, seed=seed)

    def choices(self, layer: Layer) -> Ints:
        """1 to 8 bits a weight."""
        return BITS

    def costs(self, layer: Layer, resource: str) -> Ints:
        """In bits, see `stored_bits`; nothing else changes."""
        total, counts = weights(layer, layer.c_in, layer.c_out), np.arange(WHOLE + 1)
        if resource == "macs":
            return np.full(len(counts), total * layer.positions)
        if resource == "params":
            return np.full(len(counts), total)
        return stored_bits(np.full(len(counts), total), counts)

    def module(self, layer: Layer, count: int) -> nn.Module:
        """The layer with shared weights; in training its values move."""
        module = copy.deepcopy(self._model.get_submodule(layer.name))
        everything = np.ones(int(layer.reads.max()) + 1, dtype=bool)
        shared = self._sharing(layer, weight_of(module).detach().cpu(), everything, count)
        constrain(module, {"": shared})
        return module


def stored_bits(numbers: Ints, counts: Ints) -> Ints:
    """``(...)`` bits of layers whose weights have as many bits as the counts say.

    *Source*: Deep Compression, section 3: n weights of b bits take n b + 32 * 2^b bits, here with a codebook
    of at most n values.

    Args:
        numbers: ``(...)`` of weights.
        counts: ``(...)`` bits of a weight; `WHOLE` for weights that are stored as they are.
    """
    shared = numbers * counts + FLOAT * np.minimum(numbers, 2**counts)
    found: Ints = np.where(counts < WHOLE, shared, FLOAT * numbers)
    return found


class Sharing:
    """Makes codebooks for the layers of a cut network.

    Args:
        moments: of the dense network; with None the values of k-means are not refitted.
        start: of k-means, one of `amc_env.compressors.sharing.STARTS`.
        seed: of k-means' random start.
    """

    def __init__(self, moments: Moments | None, *, start: str, seed: int) -> None:
        self._moments, self._start, self._seed = moments, start, seed

    def __call__(self, layer: Layer, weight: Tensor, mask: NDArray[np.bool_], bits: int) -> Shared:
        """The shared values of a layer, refitted on its kept inputs.

        Args:
            layer: of the dense network.
            weight: of the cut one, on the CPU.
            mask: ``(atoms,)`` bool, which atoms stay.
            bits: of a code.
        """
        shared = Shared(weight, bits, start=self._start, seed=self._seed)
        grams = self._grams(layer, mask)
        if grams:
            shared.values = refit_values(weight, shared, grams)
        return shared

    def _grams(self, layer: Layer, mask: NDArray[np.bool_]) -> list[Tensor]:
        """E[x xᵀ] of the kept inputs, for each kept channel group; none if one is unknown."""
        if self._moments is None or layer.kind == "transposed":
            return []
        found = []
        for block, reads in enumerate(mask[layer.reads].reshape(layer.groups, -1)):
            gram = self._moments.damped(layer.name, block) if reads.any() else None
            if gram is not None:
                columns = torch.from_numpy(np.flatnonzero(np.repeat(reads, layer.taps)))
                found.append(gram.cpu()[columns][:, columns])
            elif reads.any():
                return []
        return found


def refit_values(weight: Tensor, shared: Shared, grams: Sequence[Tensor]) -> Tensor:
    """``(k,)`` the shared values with which a layer's outputs come closest to the dense ones.

    Args:
        weight: dense W; kernels are flattened. Its zeros stay zero and share no value.
        shared: the codes of the others, and their values; damping keeps the result near them.
        grams: ``(d, d)`` float64, E[x xᵀ] of each channel group.
    """
    size, blocks = len(shared.values), len(weight) // len(grams)
    both, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    rows = zip(*(each.flatten(1) for each in (weight.double(), shared.codes, shared.mask)), strict=True)
    for row, (numbers, every, kept) in enumerate(rows):
        code, gram = every[kept], grams[row // blocks]
        across = torch.zeros(size, len(numbers), dtype=torch.float64).index_add_(0, code, gram[kept])
        both.index_add_(0, code, across.T[kept])
        right += across @ numbers
    both.diagonal().add_(DAMPING * both.diagonal().mean())
    change = torch.linalg.solve(both, right - both @ shared.values.double())
    found: Tensor = shared.values + change.to(shared.values.dtype)
    return found
