"""The functions and tensor methods that tracing understands, by name, and how to add one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload, OpOverloadPacket
from torch.nn import functional as F

from amc_env.graph import arithmetic, layers, shapes

Operation = Callable[..., object]

VALUES = ("bool", "int", "float", "index", "complex", "array", "contains", "format", "repr")
READS = {f"__{name}__" for name in VALUES} | {"item", "tolist", "numpy", "is_nonzero", "equal", "allclose"}
SIZES = {"shape", "size", "numel", "nelement", "__len__"}
FACTS = SIZES | {
    "ndim", "dim", "ndimension", "dtype", "device", "data", "requires_grad", "is_cuda", "is_leaf", "layout",
    "is_sparse", "is_quantized", "is_meta", "is_mps", "is_cpu", "is_mkldnn", "is_nested", "is_floating_point",
    "is_complex", "is_contiguous", "is_inference", "grad", "grad_fn", "get_device", "stride", "element_size",
    "itemsize", "__hash__", "is_xla", "is_conj", "is_neg", "names", "storage_offset", "requires_grad_",
}  # fmt: skip


def name_of(function: Any) -> str:
    """The name of a torch function, method or attribute, without the underscores of an operator."""
    name = str(getattr(function, "__name__", function)).removeprefix("special_")
    if name in ("__get__", "__set__"):
        owner = getattr(getattr(function, "__self__", None), "__name__", "attribute")
        return owner if name == "__get__" else f"{owner}="
    if name in READS or name in FACTS or not name.startswith("__"):
        return name
    return name.strip("_")


NUMPYS = {"axis": "dim", "keepdims": "keepdim"}  # NumPy's names, which PyTorch takes for its own


def known(function: Any) -> Operation | None:
    """The rule of a function; None if there is none."""
    return OPERATIONS.get(name_of(function) if of_torch(function) else str(function))


def of_torch(function: Any) -> bool:
    """Whether a function is PyTorch's own; another library's operation may have any name."""
    home = getattr(function, "__module__", None) or "torch"
    return not isinstance(function, OpOverload | OpOverloadPacket) and home.partition(".")[0] == "torch"


def rule(name: str) -> Callable[[Operation], Operation]:
    """Add the rule of an operation, or replace it.

    Args:
        name: of a function or tensor method of torch, such as "roll"; for a custom one, "mylib.roll".

    Returns:
        A decorator of a function ``(tracer, x, ...) -> Labels`` that takes the operation's own arguments.
    """

    def add(operation: Operation) -> Operation:
        OPERATIONS[name] = operation
        return operation

    return add


UNARY = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "leaky_relu", "elu",
    "selu", "celu", "tanh", "softplus", "softsign", "mish", "logsigmoid", "threshold", "dropout", "dropout1d",
    "dropout2d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "clamp", "clip", "neg", "abs",
    "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "sign", "erf", "floor", "round", "sin", "cos",
    "log1p", "expm1", "clamp_min", "clamp_max", "nan_to_num", "hardshrink", "softshrink", "tanhshrink",
    "rrelu", "logical_not", "log_sigmoid", "expit", "_threshold",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "truediv", "true_divide", "pow", "maximum", "minimum", "subtract", "multiply",
    "divide", "gt", "ge", "lt", "le", "eq", "ne", "radd", "rsub", "rmul", "rdiv", "rtruediv", "rpow",
    "logical_and", "logical_or", "and", "or", "atan2", "fmod", "remainder",
)  # fmt: skip
CASTS = {
    "contiguous",
    "detach",
    "float",
    "half",
    "bfloat16",
    "double",
    "to",
    "type",
    "type_as",
    "cpu",
    "cuda",
}
MOVING = (
    "permute",
    "transpose",
    "unsqueeze",
    "movedim",
    "swapaxes",
    "flip",
    "repeat",
    "repeat_interleave",
    "tile",
)
POOLING = (
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "interpolate",
    "upsample",
)  # fmt: skip
LAYERS = {"conv2d", "conv_transpose2d", "linear"}

OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys((*UNARY, *(f"{name}_" for name in UNARY)), arithmetic.same),
    "contiguous": shapes.contiguous,
    **dict.fromkeys(
        (*CASTS - {"contiguous"}, "clone", "zeros_like", "ones_like", "empty_like"), arithmetic.cast
    ),
    **dict.fromkeys((*BINARY, *(f"{name}_" for name in BINARY)), arithmetic.binary),
    **dict.fromkeys(
        ("addcmul", "addcdiv", "lerp", "addcmul_", "where", "masked_fill", "masked_fill_"), arithmetic.ternary
    ),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "logsumexp", "prod", "any", "all"), arithmetic.reduce),
    **dict.fromkeys(("norm", "linalg_vector_norm"), arithmetic.norm),
    **dict.fromkeys(("std", "var"), arithmetic.deviation),
    **dict.fromkeys(("max", "min"), arithmetic.extreme),
    **dict.fromkeys(("softmax", "log_softmax"), arithmetic.softmax),
    "normalize": arithmetic.normalize,
    "local_response_norm": arithmetic.local_response_norm,
    "glu": arithmetic.glu,
    "conv2d": layers.conv2d,
    "conv1d": layers.conv1d,
    "conv_transpose2d": layers.conv_transpose2d,
    "linear": layers.linear,
    "batch_norm": layers.batch_norm,
    "instance_norm": layers.instance_norm,
    "layer_norm": layers.layer_norm,
    "group_norm": layers.group_norm,
    "prelu": layers.prelu,
    **{name: shapes.method(name) for name in MOVING},
    **{name: shapes.spatial(getattr(F, name)) for name in POOLING},
    "view": shapes.view,
    "reshape": shapes.reshape,
    "view_as": shapes.view_as,
    "reshape_as": shapes.reshape_as,
    **dict.fromkeys(("cat", "concat", "concatenate"), shapes.cat),
    **dict.fromkeys(("unbind", "iter"), shapes.unbind),
    "stack": shapes.stack,
    **dict.fromkeys(("flatten", "ravel"), shapes.flatten),
    "unflatten": shapes.unflatten,
    "squeeze": shapes.squeeze,
    "expand": shapes.expand,
    "expand_as": shapes.expand_as,
    "chunk": shapes.chunk,
    "split": shapes.split,
    "getitem": shapes.getitem,
    "narrow": shapes.narrow,
    "select": shapes.select,
    "roll": shapes.roll,
    "pad": shapes.pad,
    "new_zeros": shapes.new_zeros,
    "new_ones": shapes.new_zeros,
    "channel_shuffle": shapes.channel_shuffle,
    "pixel_shuffle": shapes.pixel_shuffle,
    "pixel_unshuffle": shapes.pixel_unshuffle,
}

_MANY = (arithmetic.binary, arithmetic.ternary, arithmetic.extreme)
WITH_PARAMETERS = {
    operation
    for operation in OPERATIONS.values()
    if operation in _MANY or operation.__module__ == layers.__name__
}
"""Rules that take parameters as `Constant`; all others get a parameter as `Labels` of its own."""
