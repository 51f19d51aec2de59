"""Least squares for the error of a layer's outputs, with a ridge chosen on held-out rows."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from amc_env.repair.least_squares import SMALLEST

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of the inputs
HELD_OUT = 4  # one row of so many is held out to choose a ridge
NARROW = 64  # columns whose products cost nothing in float64; a depthwise channel may hardly vary
ROWS = 1024  # that are multiplied at once, so that they stay in a processor's cache

Products = tuple[Tensor, Tensor]
"""Of rows: ``(blocks, d, d)`` xᵀ x and ``(blocks, d, out)`` xᵀ y, float64, with a column of ones last."""


class Outputs(NamedTuple):
    """Statistics of a layer's outputs over all sampled rows.

    Attributes:
        mean: ``(c_out,)``, without the mean that a following batch norm subtracts.
        deviation: ``(c_out,)`` standard deviation.
    """

    mean: Tensor
    deviation: Tensor


def of_rows(made: Tensor) -> Outputs:
    """The statistics of outputs ``(blocks, rows, out)``."""
    return Outputs(made.mean(1).flatten(), made.std(1).flatten())


def of_products(gram: Tensor, weights: Tensor) -> Outputs:
    """The statistics of outputs from products of rows, with the column of ones last."""
    rows = gram[:, -1:, -1:]
    made = gram @ weights
    mean = made[:, -1:] / rows
    variance = ((weights * made).sum(1, keepdim=True) / rows - mean.square()) * (rows / (rows - 1))
    return Outputs(mean.flatten(), variance.clamp_min(0).sqrt().flatten())


def made_of(x: Tensor, weights: Tensor) -> Tensor:
    """Outputs ``(blocks, rows, out)`` of inputs ``(blocks, rows, d)``; extra weights are a constant."""
    weights = weights.to(x.dtype)
    return x @ weights[:, : x.size(2)] + weights[:, x.size(2) :].sum(1, keepdim=True)


def correction(x: Tensor, missing: Tensor, *, offset: bool, worth: Tensor | float = 1.0) -> Tensor:
    """Weights C that lower E‖missing - x C‖²; zero unless they also lower it on held-out rows.

    A ridge on ‖C‖² keeps the layer near its present weights. The ridge, one of `RIDGES` times the mean square
    of x, is the one that fits the last quarter of the rows best after a fit to the others; then C is fitted
    to all rows.

    Args:
        x: ``(blocks, rows, d)``, float32 or float64.
        missing: ``(blocks, rows, out)``, target minus outputs.
        offset: whether to add a constant, without a ridge; it is then the last row of the result.
        worth: of an output's squared error on held-out rows, a number or ``(blocks, 1, out)``.

    Returns:
        ``(blocks, d, out)``, or ``(blocks, d + 1, out)``, float64.
    """
    if x.size(2) > x.size(1):
        return _from_rows(x.double(), missing.double(), offset=offset, worth=worth)
    return chosen(*halves(x, missing, offset=offset), x.size(2), x.size(1), worth)


def _fitted(rows: int) -> int:
    """The number of rows that are fitted while a ridge is chosen."""
    return rows - rows // HELD_OUT


def halves(x: Tensor, wanted: Tensor, *, offset: bool) -> tuple[Products, Products]:
    """The `_products` of the rows to fit and of the held-out rows."""
    rows, fitted = x.size(1), _fitted(x.size(1))
    some, rest = (
        _products(x[:, part], wanted[:, part], offset=offset) for part in (slice(fitted), slice(fitted, rows))
    )
    return some, rest


def chosen(some: Products, rest: Products, inputs: int, rows: int, worth: Tensor | float = 1.0) -> Tensor:
    """`correction` from the products of both parts of the rows."""
    fitted = _fitted(rows)
    scale = some[0].diagonal(dim1=1, dim2=2)[:, :inputs].mean(1) / fitted
    scale = scale.clamp_min(SMALLEST)

    def solve(gram: Tensor, cross: Tensor, count: int, ridge: float) -> Tensor:
        damped = gram.clone()
        damped.diagonal(dim1=1, dim2=2)[:, :inputs].add_((count * ridge * scale)[:, None])
        return torch.cholesky_solve(cross, torch.linalg.cholesky(damped))

    def gain(ridge: float) -> float:
        """The decrease of the sum of squares on the held-out rows."""
        found = solve(*some, fitted, ridge)
        return (worth * found * (2 * rest[1] - rest[0] @ found)).sum().item()

    best = _best(gain)
    if best is None:
        return torch.zeros_like(some[1])
    return solve(some[0] + rest[0], some[1] + rest[1], rows, best)


def _best(gain: Callable[[float], float]) -> float | None:
    """The ridge of the largest gain; None if none gains anything."""
    gains = {ridge: gain(ridge) for ridge in RIDGES}
    best = max(gains, key=lambda ridge: gains[ridge])
    return best if gains[best] > 0 else None


def _products(x: Tensor, missing: Tensor, *, offset: bool) -> Products:
    """``(blocks, d, d)`` xᵀ x and ``(blocks, d, out)`` xᵀ missing in float64, a column of ones added to x.

    Products of some rows are made in the precision of x, or in float64 where columns are few or x has half
    the precision, and added in float64.
    """
    blocks, rows, d = x.shape
    if d <= NARROW or x.dtype.itemsize < torch.float32.itemsize:
        x, missing = x.double(), missing.double()
    size, out = d + offset, missing.size(2)
    gram, cross = (torch.zeros(blocks, size, n, dtype=torch.float64, device=x.device) for n in (size, out))
    step = ROWS if x.device.type == "cpu" else rows
    for part, of_part in zip(x.split(step, 1), missing.split(step, 1), strict=True):
        half = d // 2  # the upper right block is the lower left one
        gram[:, :half, :d] += part[..., :half].mT @ part
        gram[:, half:d, half:d] += part[..., half:].mT @ part[..., half:]
        cross[:, :d] += part.mT @ of_part
        if offset:
            gram[:, :d, d] += part.sum(1)
            cross[:, d] += of_part.sum(1)
    gram[:, d // 2 : d, : d // 2] = gram[:, : d // 2, d // 2 : d].mT
    if offset:
        gram[:, d, :d] = gram[:, :d, d]
        gram[:, d, d] = rows
    return gram, cross


def _from_rows(x: Tensor, missing: Tensor, *, offset: bool, worth: Tensor | float) -> Tensor:
    """`correction` with more inputs than rows, by systems of the size of the rows.

    Both sides are centred over the rows of a fit, so that the constant has no ridge.
    """
    rows, fitted = x.size(1), _fitted(x.size(1))

    def solver(count: int) -> Callable[[float], Tensor]:
        own, wanted = x[:, :count], missing[:, :count]
        center, middle = (each.mean(1, keepdim=True) * offset for each in (own, wanted))
        moved = own - center
        kernel, scale = moved @ moved.mT, own.square().mean((1, 2)).clamp_min(SMALLEST)

        def solve(ridge: float) -> Tensor:
            damped = kernel.clone()
            damped.diagonal(dim1=1, dim2=2).add_((count * ridge * scale)[:, None])
            weights = moved.mT @ torch.cholesky_solve(wanted - middle, torch.linalg.cholesky(damped))
            return torch.cat([weights, middle - center @ weights], 1) if offset else weights

        return solve

    of_some = solver(fitted)

    def gain(ridge: float) -> float:
        made = made_of(x[:, fitted:], of_some(ridge))
        return (worth * made * (2 * missing[:, fitted:] - made)).sum().item()

    best = _best(gain)
    if best is None:
        return x.new_zeros(len(x), x.size(2) + offset, missing.size(2))
    return solver(rows)(best)
