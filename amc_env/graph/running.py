"""Runs a network on channel labels: its forward is called once, and a rule handles each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from amc_env.execution import evaluating
from amc_env.graph import lines
from amc_env.graph.arithmetic import binary, label_constant
from amc_env.graph.given import Given, nested, tensors
from amc_env.graph.labels import Constant, Count, Labels, TraceError, Tracer, compact, spread
from amc_env.graph.operations import (
    CASTS,
    FACTS,
    LAYERS,
    NUMPYS,
    READS,
    SIZES,
    WITH_PARAMETERS,
    known,
    name_of,
    of_torch,
)  # fmt: skip


def propagate(model: nn.Module, tracer: Tracer, given: Given) -> Run:
    """Run a network, or a part of it, on labels, as it is evaluated.

    Args:
        model: the whole network; left unchanged, even if its forward stores something.
        tracer: gives the labels that layers write, and records what they read.
        given: the arguments of the network or part. All its input and output channels stay.

    Returns:
        Which parameters were used, and how.

    Raises:
        TraceError: names the operation, its module and the line of the forward that caused it.
    """
    run = Run(model, tracer)
    tracer.set_place(run.note)
    module = model.get_submodule(given.part)
    args, kwargs = given.filled(lambda sizes: _blank(tracer, sizes))
    with evaluating(model), untouched(model), torch.random.fork_rng(devices=[]), run.following(), run:
        try:
            result = module(*args, **kwargs)
        except TraceError:
            raise
        except Exception as error:  # a forward raises what it likes
            shapes = ", ".join(str(tuple(each.shape[1:])) for each in tensors((args, kwargs)))
            where = _at(lines.of_error(error))
            raise TraceError(
                f"{type(module).__name__} cannot run on an image of {shapes}{where}: {error}"
            ) from error
    _finish(tracer, module, result, one=not given.part)
    return run


def _blank(tracer: Tracer, sizes: tuple[int, ...]) -> Labels:
    """An input, with labels for its channels."""
    dim = 1 if len(sizes) in (2, 4) else len(sizes) - 1
    if dim < 1:
        raise TraceError(f"a tensor of {sizes} is given to the part: it has no channels")
    return Labels(spread(tracer.blank(sizes[dim]), sizes, dim))


def _finish(tracer: Tracer, module: nn.Module, result: object, *, one: bool) -> None:
    """Record the outputs; a whole network has one, a tensor of logits."""
    if one and not isinstance(result, Labels):
        raise TraceError(
            f"{type(module).__name__} returns {type(result).__name__}, not one tensor of logits "
            "(N, classes); compress a part of it (part=NAME) and measure it yourself (metric=module:function)"
        )
    found = [value for value in tensors(result) if isinstance(value, Labels)]
    if not found:
        raise TraceError(
            f"{type(module).__name__} returns {type(result).__name__}; a part returns tensors, or lists, "
            "tuples or dicts of them"
        )
    for value in found:
        if value.source is not None:
            value.source.readers += 1
    tracer.finish(torch.cat([compact(value.ids).flatten() for value in found]))


class Run(TorchFunctionMode):
    """Handles every torch call while the network runs: by a rule if an argument has labels, else as usual.

    Attributes:
        used: names of the parameters and buffers that were used.
        borrowed: by name, where a parameter or buffer was used by something other than a layer.
    """

    def __init__(self, model: nn.Module, tracer: Tracer) -> None:
        super().__init__()
        self.used: set[str] = set()
        self.borrowed: dict[str, str] = {}
        self._tracer = tracer
        self._paths = {id(module): name for name, module in model.named_modules()}
        self._constants = dict(_constants(model, tracer))
        first = next(model.parameters(), torch.empty(0))
        self._device, self._dtype = first.device, first.dtype
        self._modules: list[str] = []
        self._operation = ""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep track of which module is running."""
        before = register_module_forward_pre_hook(
            lambda m, _: self._modules.append(self._paths.get(id(m), ""))
        )
        with before, register_module_forward_hook(lambda *_: self._left()):
            yield

    def _left(self) -> None:
        self._modules.pop()

    def note(self) -> str:
        """The running operation and its line, without folders, so that records can hold it."""
        line = lines.of_call()
        return f"{self._where()}{f' ({Path(line.file).name}:{line.number})' if line else ''}"

    def _where(self) -> str:
        module = next((name for name in reversed(self._modules) if name), "")
        return f"{self._operation} of {module!r}" if module else self._operation

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Handle one call."""
        self._operation = name_of(func)
        try:
            return self._call(func, args, kwargs or {})
        except TraceError as error:
            raise TraceError(f"{self._place()}: {error}") from error
        except Exception as error:  # operations raise what they like on sizes that do not fit
            raise TraceError(f"{self._place()} cannot run: {error}") from error

    def _place(self) -> str:
        return f"{self._quoted()}{_at(lines.of_call())}"

    def _quoted(self) -> str:
        module = next((name for name in reversed(self._modules) if name), "")
        return f"{self._operation!r} of {module!r}" if module else f"{self._operation!r}"

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, given = self._operation, list(tensors((args, kwargs)))
        if not args and "input" in kwargs:  # the name of the first argument of all operations
            args, kwargs = (kwargs["input"],), {key: kwargs[key] for key in kwargs if key != "input"}
        labels = [value for value in given if isinstance(value, Labels)]
        constants = [self._constants[id(value)] for value in given if id(value) in self._constants]
        if not labels and not constants:
            return func(*args, **kwargs)
        if name in FACTS:
            return self._fact(func, args, kwargs, name)
        if name in CASTS and id(args[0]) in self._constants:
            return args[0]  # the parameter itself, so that it is still known
        for constant in constants:
            self.used.add(constant.name)
            if name not in LAYERS:
                self.borrowed.setdefault(constant.name, self._quoted())
        if any(value.value is None for value in labels):
            return self._rule(func, name, args, kwargs)
        return self._on_parameters(func, args, kwargs, all(len(c.dims) == 1 for c in constants))

    def _rule(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation on activations: a rule gives the labels of its result."""
        if name in READS:
            raise TraceError(
                "the forward reads values of its activations; which channels stay may not depend on them: "
                "move such a choice to the constructor, or write it with torch.where"
            )
        if (name.endswith("_") and not isinstance(args[0], Labels)) or kwargs.get("out") is not None:
            raise TraceError("activations are written into another tensor; write x = x + y, not in place")
        operation = known(func)
        if operation is None:
            raise TraceError(
                f"the operation {name!r} is not understood: no rule says what it does to channels. Use one "
                "of amc_env.graph.operations.OPERATIONS, add a rule (amc_env.graph.rule), or "
                "compress the convolutional part of the network alone"
            )
        if of_torch(func):
            kwargs = {NUMPYS.get(key, key): value for key, value in kwargs.items()}
        for value in tensors((args, kwargs)):
            if isinstance(value, Labels) and value.source is not None:
                value.source.readers += 1 if self._is_of_module(name, args) else 2
        change = self._named if operation in WITH_PARAMETERS else self._labelled
        args, kwargs = self._map((args, kwargs), change)
        result = operation(self._tracer, *args, **kwargs)
        if isinstance(result, Labels) and result.source and [result.source.layer] != self._modules[-1:]:
            result.source = None  # the layer's weights are used without its module, which cannot be folded
        return result

    def _is_of_module(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a batch norm is called by its own module, so that the module can be folded away."""
        statistics = self._constants.get(id(args[1])) if name == "batch_norm" and len(args) > 1 else None
        return statistics is not None and [statistics.name.rpartition(".")[0]] == self._modules[-1:]

    def _named(self, value: Tensor) -> Any:
        return self._constants.get(id(value), value)

    def _on_parameters(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], vectors: bool) -> Any:
        """An operation on parameters alone: computes its result, and its labels if they are vectors."""
        plain, named = self._map(
            (args, kwargs), lambda value: value.value if isinstance(value, Labels) else value
        )
        result, operation = func(*plain, **named), known(func)
        first = next(tensors((args, kwargs)))
        ours = isinstance(first, Labels) or id(first) in self._constants
        if not vectors or operation is None or not isinstance(result, Tensor):
            return result
        if not ours and operation is not binary:
            return result
        args, kwargs = self._map((args, kwargs), self._labelled)
        labels = operation(self._tracer, *args, **kwargs)
        if isinstance(labels, Labels):
            labels.value = result
        return labels

    def _labelled(self, value: Tensor) -> Tensor:
        constant = self._constants.get(id(value))
        if constant is None or not constant.dims:
            return value
        return label_constant(self._tracer, constant)

    def _fact(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """A property of a tensor that does not depend on its values."""
        if name == "data":
            return args[0]
        if isinstance(args[0], Labels) and name in ("device", "dtype", "is_cuda"):
            return {"device": self._device, "dtype": self._dtype, "is_cuda": self._device.type == "cuda"}[
                name
            ]
        answer = func(*args, **kwargs)
        if name not in SIZES:
            return answer
        return Count(answer) if isinstance(answer, int) else torch.Size([Count(size) for size in answer])

    def _map(self, values: Any, change: Callable[[Tensor], Any]) -> Any:
        """Nested arguments with every tensor changed."""
        return nested(values, lambda value: change(value) if isinstance(value, Tensor) else value)


def _constants(model: nn.Module, tracer: Tracer) -> Iterator[tuple[int, Constant]]:
    """The network's parameters and buffers by ``id``, each under the first of its names."""
    for named in (model.named_parameters(), model.named_buffers()):
        for name, value in named:
            many = [dim for dim, size in enumerate(value.shape) if size > 1]
            dim = tracer.vector_dim(name)
            owner = model.get_submodule(name.rpartition(".")[0])
            yield id(value), Constant(name, value, owner, many if dim is None else [dim])


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore the attributes and buffers of modules that a forward changes."""
    fields = [(module, dict(vars(module))) for module in model.modules()]
    values = [value for _, kept in fields for value in kept.values()]
    dicts = [(found, dict(found)) for found in values if isinstance(found, dict)]
    lists = [(found, list(found)) for found in values if isinstance(found, list)]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        for module, kept in fields:
            vars(module).clear()
            vars(module).update(kept)
        for found, kept in dicts:
            if found.keys() != kept.keys() or any(found[key] is not kept[key] for key in kept):
                found.clear()
                found.update(kept)
        for many, before in lists:
            many[:] = before
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _at(line: lines.Line | None) -> str:
    return f" ({line})" if line else ""
