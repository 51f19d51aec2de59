"""Least squares of a layer on the kept inputs, from second moments alone.

*Source*: He, Zhang & Sun, "Channel Pruning", ICCV 2017, the reconstruction step, which AMC's released code
reuses. There feature rows are stored and regressed anew at each step; since the target is the dense layer's
own output y = W x, it suffices to know E[x xᵀ] once: the best weights on any subset of inputs are one small
solve (compare the layer-wise accumulation of Frantar & Alistarh, "Optimal Brain Compression", 2022). A bias
is part of neither side, and stays as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-30  # damping where all inputs are zero; a solution by a much smaller one overflows
OUTPUTS = 512  # refitted at a time where inputs are many: float64 copies of 10⁸ weights do not fit everywhere


def damping(inputs: int, rows: int) -> float:
    """The damping towards the dense weights, in [0, 1], for ``rows`` samples of ``inputs`` kept inputs.

    Least squares overfits by inputs / rows of the unexplained part. Measured on held-out images over 110
    layers of 8 networks, the best fraction of the mean diagonal rises from 0 at inputs / rows = 0.1 to about
    1 at inputs = rows; the cube of that ratio follows it.
    """
    return float(min(1.0, inputs / rows) ** 3)


def refit(weight: Tensor, gram: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """Weights on the kept inputs that best reproduce the dense layer: ``min_V E‖W x - V x_kept‖²``.

    Args:
        weight: ``(out, d)`` dense W, kernels flattened; only the kept rows.
        gram: ``(d, d)`` float64, E[x xᵀ] of the dense input.
        columns: ``(k,)`` int64, the kept inputs, ascending.
        ridge: damping towards the dense weights, as a fraction of the mean diagonal of the kept block. An
            input that is always zero keeps its dense weights.

    Returns:
        ``(out, k)`` in the dtype of ``weight``.
    """
    gone = _others(columns, weight.size(1)).to(gram.device)
    columns = columns.to(gram.device)
    kept = columns[:, None]
    cross = gram[kept, gone] @ weight[:, gone].double().T  # (k, out): E[x_kept y_goneᵀ]
    change = torch.cholesky_solve(cross, _damped_factor(gram[kept, columns], ridge)).T
    return weight[:, columns] + change.to(weight.dtype)


def _damped_factor(block: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a matrix, which is damped in place and freed with this call."""
    block.diagonal().add_(_absolute(ridge, block.diagonal().mean()))
    factor: Tensor = torch.linalg.cholesky(block)
    return factor


def refit_together(
    weights: Sequence[Tensor], grams: Sequence[Tensor], columns: Sequence[Tensor], ridges: Sequence[float]
) -> list[Tensor]:
    """`refit` of several layers of one shape in one solve; a removed input becomes the equation x = 0.

    This gives all of them one size, for more arithmetic, which is cheap on a GPU.

    Args:
        weights: each ``(out, d)``.
        grams: each ``(d, d)``.
        columns: each ``(k,)``; k may differ.
        ridges: one each.
    """
    dense, device = torch.stack(list(weights)).double(), grams[0].device  # (n, out, d)
    stays = torch.zeros(len(weights), dense.size(2), dtype=torch.bool)
    for row, kept in zip(stays, columns, strict=True):
        row[kept] = True
    keep = stays.to(device, torch.float64)  # (n, d)
    gram, gone = torch.stack(list(grams)), 1 - keep
    cross = gram @ (dense * gone[:, None]).mT  # (n, d, out), of which the rows that are kept count
    mean = (gram.diagonal(dim1=1, dim2=2) * keep).sum(1) / keep.sum(1)
    damped = _absolute(torch.tensor(ridges, dtype=torch.float64).to(device), mean)  # (n,)
    block = gram.mul_(keep[:, :, None]).mul_(keep[:, None])
    block.diagonal(dim1=1, dim2=2).add_(damped[:, None] * keep + gone)
    change = torch.cholesky_solve(cross, torch.linalg.cholesky(block)).mT
    whole = [weight + part.to(weight.dtype) for weight, part in zip(weights, change, strict=True)]
    return [weight[:, kept.to(device)] for weight, kept in zip(whole, columns, strict=True)]


def refit_rows(weight: Tensor, rows: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """The weights of `refit` from the rows of x themselves, by a system of the size of their number.

    Args:
        weight: ``(out, d)`` dense W.
        rows: ``(n, d)`` samples of the dense input.
        columns: ``(k,)`` int64, the kept inputs, ascending.
        ridge: see `refit`.

    Returns:
        ``(out, k)`` in the dtype of ``weight``.
    """
    gone = _others(columns, weight.size(1))
    kept, lost = rows[:, columns].double(), rows[:, gone].double()
    block = kept @ kept.T  # (n, n)
    block.diagonal().add_(len(rows) * _absolute(ridge, kept.square().mean()))
    factor = torch.linalg.cholesky(block)
    parts = []
    for part in weight.split(OUTPUTS):
        error = lost @ part[:, gone].double().T  # (n, out)
        change = torch.cholesky_solve(error, factor).T @ kept
        parts.append(part[:, columns] + change.to(part.dtype))
    return torch.cat(parts)


def _absolute(ridge: float | Tensor, mean: Tensor) -> Tensor:
    """A fraction of the mean diagonal, or a small positive number if all inputs are zero."""
    return (ridge * mean).clamp_min(SMALLEST)


def _others(columns: Tensor, count: int) -> Tensor:
    gone = torch.ones(count, dtype=torch.bool)
    gone[columns] = False
    return gone.nonzero().flatten()
