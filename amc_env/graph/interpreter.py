"""Run a network on channel labels, node by node."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Argument, Target

from amc_env.graph.arithmetic import label_constant
from amc_env.graph.labels import Constant, Labels, Scribe, TraceError, spread
from amc_env.graph.leaves import apply_leaf
from amc_env.graph.operations import known
from amc_env.modes import evaluating

PLAIN = ("getattr", "size", "dim")  # asked of a parameter, they are answered by the parameter


def propagate(model: nn.Module, scribe: Scribe, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Run a network on labels, as it is evaluated; the scribe says what layers emit and hears what they read.

    Returns:
        The network as `torch.fx` wrote it down.

    Raises:
        TraceError: names the node, or the line of the forward, that stands in the way.
    """
    try:
        written = fx.GraphModule(model, write_down(model))
    except Exception as error:  # torch.fx passes on whatever the forward raises on a proxy
        raise TraceError(
            f"{type(model).__name__} cannot be traced{_place(error)}: {error}. A forward may not branch "
            "on the values or the size of its input; move such a choice to the constructor"
        ) from error
    result = _Interpreter(model, written, scribe, shape).run()
    if not isinstance(result, Labels):
        raise TraceError(
            f"{type(model).__name__} returns {type(result).__name__}, not one tensor of logits (N, classes)"
        )
    return written


def write_down(model: nn.Module) -> fx.Graph:
    """A network's operations, as it is evaluated: its batch norm, its auxiliary heads."""
    with evaluating(model):
        return _Tracer().trace(model)


def _place(error: Exception) -> str:
    """Where in the user's forward an error arose, as far as that is known."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    lines = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith(ours)]
    return f" ({lines[-1].filename}:{lines[-1].lineno}: {lines[-1].line})" if lines else ""


class _Tracer(fx.Tracer):
    """Follows buffers as it follows parameters."""

    proxy_buffer_attributes = True


class _Interpreter(fx.Interpreter):
    """Runs each node on labels; everything without a label in it runs as usual."""

    def __init__(
        self, model: nn.Module, written: fx.GraphModule, scribe: Scribe, shape: tuple[int, int, int]
    ) -> None:
        super().__init__(written, garbage_collect_values=True)
        self.extra_traceback = False
        self.named = dict(model.named_parameters()) | dict(model.named_buffers())
        self.scribe = scribe
        self.image = shape
        self.first = next(iter(written.graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        """One node, with its name in every error."""
        self.scribe.node = n
        try:
            return super().run_node(n)
        except TraceError as error:
            raise TraceError(f"node {n.name!r} ({n.op} {_called(n)}): {error}") from error
        except Exception as error:  # operations raise what they like on sizes that do not fit
            raise TraceError(f"node {n.name!r} ({n.op} {_called(n)}) cannot run: {error}") from error

    def placeholder(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """The image, and arguments with a default."""
        if self.scribe.node is self.first:
            return Labels(spread(self.scribe.blank(self.image[0]), (1, *self.image), 1))
        if not args:
            raise TraceError("the forward takes more than one batch of images")
        return args[0]

    def get_attr(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """A parameter or buffer, with its name; a tensor that the forward made is one of fixed size."""
        name = str(target)
        return Constant(name, self.named[name]) if name in self.named else self.fetch_attr(name)

    def call_module(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """A leaf module."""
        module = self.fetch_attr(str(target))
        return apply_leaf(self.scribe, str(target), module, args[0] if args else next(iter(kwargs.values())))

    def call_function(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """A function: ours where labels go in, itself otherwise."""
        return self._operation(target, super().call_function, args, kwargs)

    def call_method(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """A method of a tensor: ours where labels go in, itself otherwise."""
        return self._operation(target, super().call_method, args, kwargs)

    def output(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        """The logits."""
        result: Any = args[0]
        if isinstance(result, Labels):
            self.scribe.finish(result.ids)
        return result

    def _operation(self, target: Target, plain: Any, args: Any, kwargs: Any) -> Any:
        kinds = {type(value) for value in _tensors((args, kwargs))}
        operation = known(target)
        if Labels in kinds:
            if operation is None:
                raise TraceError(
                    f"the operation {_name(target)!r} is not understood: nothing says what it does "
                    "to channels; write it with those of amc_env.graph.operations.OPERATIONS, or add "
                    "a rule there"
                )
            return operation(self.scribe, *args, **kwargs)
        if Constant in kinds and operation is not None and _name(target) not in PLAIN:
            constants = [value for value in _tensors((args, kwargs)) if isinstance(value, Constant)]
            if all(len(constant.dims) == 1 for constant in constants):
                labelled = _map((args, kwargs), lambda c: label_constant(self.scribe, c))
                return operation(self.scribe, *labelled[0], **labelled[1])
        values = _map((args, kwargs), lambda c: c.value)
        return plain(target, *values)


def _tensors(values: object) -> list[object]:
    """Everything in nested arguments that stands for a tensor."""
    if isinstance(values, tuple | list):
        return [found for value in values for found in _tensors(value)]
    if isinstance(values, dict):
        return _tensors(list(values.values()))
    return [values] if isinstance(values, Labels | Constant) else []


def _map(values: Any, change: Any) -> Any:
    """Nested arguments with every constant changed."""
    return fx.node.map_aggregate(
        values, lambda value: change(value) if isinstance(value, Constant) else value
    )


def _name(target: Target) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _called(node: fx.Node) -> str:
    return _name(node.target)
