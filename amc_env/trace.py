"""Trace a CNN into a `Graph` by running it on channel labels instead of values.

`torch.fx` writes the network down once; an interpreter then sends an integer tensor through it, which holds for
each number that would stand there the label of its channel. View operations are run on the labels as they are. A
convolution or linear layer records the labels that it reads and emits fresh ones, element-wise operations unify
the labels of their operands, and what must stay rectangular is unified position by position. No model is named
anywhere; an operation that is not understood is an error that names its node.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from amc_env.graph import Graph
from amc_env.labels import OPERATIONS, Constant, Labels, Scribe, TraceError, apply_module
from amc_env.recorder import Checker, Recorder

__all__ = ["TraceError", "trace", "verify"]


def trace(model: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """The graph of a classifier for images of a shape.

    Args:
        model: its forward takes one image batch and returns logits ``(N, classes)``.
        shape: C, H, W of an image.

    Raises:
        TraceError: for control flow that depends on data, an operation that is not understood, a module that is
            run on two different shapes, or an image that the network cannot take; it names the node.
    """
    recorder = Recorder(model, shape)
    propagate(model, recorder, shape)
    return recorder.graph()


def verify(cut: nn.Module, graph: Graph, mask: NDArray[np.bool_]) -> None:
    """Raise a `TraceError` unless a cut network computes with exactly the channels that stayed.

    Args:
        cut: the smaller network.
        graph: of the dense one.
        mask: ``(atoms,)`` bool, which atoms stayed.
    """
    propagate(cut, Checker(graph, mask), graph.shape)


def propagate(model: nn.Module, scribe: Scribe, shape: tuple[int, int, int]) -> None:
    """Run a network on labels; the scribe says what layers emit and hears what they read."""
    modes = {module: module.training for module in model.modules()}
    model.eval()  # batch norm and auxiliary heads are traced as they are evaluated
    try:
        written = fx.symbolic_trace(model)
    except Exception as error:  # torch.fx passes on whatever the forward raises on a proxy
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {error}. Its forward must not depend on the values or, beyond "
            "torch.fx, on the type of its input; move such a choice to the constructor."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    result = _Interpreter(written, scribe).run(Labels(scribe.image(shape)))
    if not isinstance(result, Labels):
        raise TraceError(f"{type(model).__name__} returns {type(result).__name__}, not one tensor of logits")
    scribe.finish(result.ids)


class _Interpreter(fx.Interpreter):
    """Runs each node on labels; everything without a label in it runs as usual."""

    def __init__(self, written: fx.GraphModule, scribe: Scribe) -> None:
        super().__init__(written, garbage_collect_values=True)
        self.scribe = scribe

    def run_node(self, node: fx.Node) -> object:
        """One node, with its name in every error."""
        self.scribe.node = node
        try:
            return super().run_node(node)
        except TraceError as error:
            raise TraceError(f"node {node.name!r} ({node.op} {node.target}): {error}") from error
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise TraceError(f"node {node.name!r} ({node.op} {node.target}) cannot run: {error}") from error

    def get_attr(self, target: str, args: object, kwargs: object) -> object:
        """A parameter or buffer, with its name."""
        value = self.fetch_attr(target)
        return Constant(target, value) if isinstance(value, Tensor) else value

    def call_module(self, target: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """A leaf module."""
        module = self.fetch_attr(target)
        return apply_module(self.scribe, target, module, *args, **kwargs)

    def call_function(self, target: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """A function: ours where labels go in, itself otherwise."""
        return self._operation(getattr(target, "__name__", str(target)), target, args, kwargs)

    def call_method(self, target: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """A method of a tensor: ours where labels go in, itself otherwise."""
        return self._operation(target, lambda self, *a, **k: getattr(self, target)(*a, **k), args, kwargs)

    def _operation(
        self, name: str, plain: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if not _holds_labels((args, kwargs)):
            values = fx.node.map_aggregate(
                (args, kwargs), lambda v: v.value if isinstance(v, Constant) else v
            )
            return plain(*values[0], **values[1])  # type: ignore[operator, index]
        known = (
            OPERATIONS.get(name) or OPERATIONS.get(name.strip("_")) or OPERATIONS.get(name.removeprefix("i"))
        )
        if known is None:
            raise TraceError(
                f"the operation {name!r} is not understood, so what it does to channels is not known. Known are "
                f"{', '.join(sorted(OPERATIONS))}"
            )
        return known(self.scribe, *args, **kwargs)


def _holds_labels(values: object) -> bool:
    found = False

    def look(value: object) -> object:
        nonlocal found
        found = found or isinstance(value, Labels)
        return value

    fx.node.map_aggregate(values, look)
    return found
