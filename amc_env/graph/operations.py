"""The functions and tensor methods that tracing understands, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from amc_env.graph import arithmetic, shapes
from amc_env.graph.labels import Labels, Scribe, TraceError

Operation = Callable[..., object]


def known(target: object) -> Operation | None:
    """What a function, or a method by its name, does to labels; None where nothing is known of it."""
    if isinstance(target, str):
        return OPERATIONS.get(target)
    home = getattr(target, "__module__", None) or "torch"
    if home.partition(".")[0] not in ("torch", "_operator", "torchvision", "builtins"):
        return None  # a user's function may bear any name
    return OPERATIONS.get(getattr(target, "__name__", ""))


def _size(scribe: Scribe, x: Labels, dim: int | None = None) -> object:
    return x.shape if dim is None else x.shape[dim]


def _getattr(scribe: Scribe, x: Labels, name: str) -> object:
    facts: dict[str, object] = {"shape": x.shape, "ndim": x.ids.ndim, "data": x}
    facts |= {"device": torch.device("cpu"), "dtype": torch.float32, "requires_grad": False, "is_cuda": False}
    if name not in facts:
        raise TraceError(
            f"the attribute {name!r} of a tensor is not understood; known are {', '.join(facts)}"
        )
    return facts[name]


UNARY = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "leaky_relu", "elu",
    "selu", "celu", "tanh", "softplus", "softsign", "mish", "logsigmoid", "threshold", "dropout", "dropout2d",
    "feature_dropout", "alpha_dropout", "stochastic_depth", "clamp", "clip", "neg", "abs", "exp", "log", 
    "sqrt", "rsqrt", "square", "reciprocal", "sign", "erf", "floor", "round",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "truediv", "true_divide", "pow", "maximum", "minimum",
    "gt", "ge", "lt", "le", "eq", "ne",
)  # fmt: skip
AS_IT_IS = ("contiguous", "clone", "detach", "float", "to", "zeros_like", "ones_like")
MOVING = ("permute", "transpose", "unsqueeze", "movedim", "swapaxes", "flip", "repeat", "repeat_interleave")
POOLING = (
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "interpolate",
    "upsample",
)  # fmt: skip

OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys((*UNARY, *(f"{name}_" for name in UNARY), *AS_IT_IS), arithmetic.same),
    **dict.fromkeys((*BINARY, *(f"{name}_" for name in BINARY)), arithmetic.binary),
    **dict.fromkeys(("iadd", "isub", "imul", "itruediv", "ipow"), arithmetic.binary),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), arithmetic.reduce),
    **dict.fromkeys(("softmax", "log_softmax"), arithmetic.softmax),
    "where": arithmetic.where,
    "layer_norm": arithmetic.layer_norm,
    **{name: shapes.method(name) for name in MOVING},
    **{name: shapes.spatial(getattr(F, name)) for name in POOLING},
    **dict.fromkeys(("view", "reshape"), shapes.view),
    **dict.fromkeys(("cat", "concat", "concatenate"), shapes.cat),
    "stack": shapes.stack,
    "flatten": shapes.flatten,
    "unflatten": shapes.unflatten,
    "squeeze": shapes.squeeze,
    "expand": shapes.expand,
    "expand_as": shapes.expand_as,
    "chunk": shapes.chunk,
    "split": shapes.split,
    "getitem": shapes.getitem,
    "pad": shapes.pad,
    "new_zeros": shapes.new_zeros,
    "channel_shuffle": shapes.channel_shuffle,
    "size": _size,
    "dim": lambda scribe, x: x.ids.ndim,
    "getattr": _getattr,
}
