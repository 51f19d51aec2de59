"""Trace a CNN into a `Graph` by running it on channel labels instead of values.

The network's own forward is called once, on an image in which each number is replaced by the label of its
channel. View operations are run on the labels themselves. A convolution or linear layer records the labels
that it reads and emits fresh ones, element-wise operations unify the labels of their operands, and dimensions
of literal size are unified position by position so that they keep it. No model is treated specially; an
operation that is not understood is an error that names it and the line of the forward.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from amc_env.checks import did_you_mean, number_of
from amc_env.graph.given import Given
from amc_env.graph.labels import TraceError
from amc_env.graph.recorder import Recorder
from amc_env.graph.running import Run, propagate
from amc_env.graph.structure import Graph

CUT = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def trace(
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    keep_whole: Iterable[str] = (),
    given: Given | None = None,
) -> Graph:
    """The graph of a classifier for images of a shape, or of a part of any network.

    Tracing cannot see everything that a forward does with channel counts; cutting the network reveals the
    rest, which `amc_env.compressors.trial.try_cut` does before a search.

    Args:
        model: its forward takes one image batch and returns logits ``(N, classes)``, unless a part of it is
            traced; left as it was.
        shape: C, H, W of an image.
        keep_whole: names of layers, or of modules with layers in them, that lose no input and no output.
        given: a part and the arguments that the network calls it with, see `amc_env.graph.part.observe`;
            None for the whole network.

    Raises:
        TraceError: for control flow that depends on values, an operation that is not understood, a module
            that is run on two different shapes, or an image that the network cannot take; it names the
            operation, its module and the line of the forward.
    """
    given = Given.of_image(shape) if given is None else given
    part = dict(model.named_modules(remove_duplicate=False))[
        given.part
    ]  # a scripted network has no get_submodule
    _refuse_wrappers(part)
    _refuse_parametrizations(part)
    _refuse_shared_parameters(model)
    recorder = Recorder(model, shape, given, _layers_of(model, keep_whole))
    run = propagate(model, recorder, given)
    _refuse_idle_parameters(model, run, given.part)
    graph = recorder.graph()
    _refuse_borrowed_weights(graph, run)
    return graph


def _layers_of(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """The layers in each named module; it may be named by any of its names, layers are by their first."""
    first = {id(module): name for name, module in model.named_modules()}
    known, found = dict(model.named_modules(remove_duplicate=False)), {}
    for asked in names:
        if asked not in known:
            hint = did_you_mean(asked, known) or "print the network to see its names"
            raise TraceError(f"keep_whole names {asked!r}, which is no module of the network; {hint}")
        found[asked] = [first[id(each)] for each in known[asked].modules() if isinstance(each, CUT)]
        if not found[asked]:
            kinds = ", ".join(kind.__name__ for kind in CUT)
            raise TraceError(f"keep_whole names {asked!r}, in which there is no layer that is cut ({kinds})")
    return found


def _refuse_wrappers(model: nn.Module) -> None:
    """Refuse wrappers: the network itself is compressed."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"the scripted module {name!r}" if name else "a scripted network"
            raise TraceError(f"{what} cannot be traced or cut; pass what was scripted")
    wrappers = {"_orig_mod": "OptimizedModule", "module": "DataParallel"}
    for inner, kind in wrappers.items():
        if any(base.__name__ == kind for base in type(model).__mro__):
            raise TraceError(f"{type(model).__name__} wraps the network; pass its .{inner}")


def _refuse_parametrizations(model: nn.Module) -> None:
    """Refuse weights that are computed at every call, which cannot be cut, and those of lazy layers."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise TraceError(
                f"module {name!r} has parametrized weights; call torch.nn.utils.parametrize."
                "remove_parametrizations first"
            )
        if isinstance(module, CUT) and isinstance(vars(module).get("weight"), Tensor):
            raise TraceError(
                f"a hook computes the weight of module {name!r}; make it plain first, by torch.nn.utils."
                "remove_weight_norm, remove_spectral_norm or prune.remove"
            )
        if any(is_lazy(value) for value in module.parameters(recurse=False)):
            raise TraceError(f"module {name!r} is lazy and has no weights yet; run the network on an image")


def _refuse_shared_parameters(model: nn.Module) -> None:
    """Refuse a tensor in two modules: it would be cut twice, and differently."""
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{key}".lstrip(".")
            if id(parameter) in owners:
                raise TraceError(
                    f"{owners[id(parameter)]} and {full} are one tensor; call one module twice, or untie them"
                )
            owners[id(parameter)] = full


def _refuse_borrowed_weights(graph: Graph, run: Run) -> None:
    """Refuse other uses of a layer's weights, which do not expect fewer of them."""
    for layer in graph.layers:
        name = f"{layer.name}.weight"
        if name in run.borrowed:
            raise TraceError(
                f"{run.borrowed[name]} computes with {name}, which is cut with its layer; give it a "
                "parameter of its own"
            )


def _refuse_idle_parameters(model: nn.Module, run: Run, part: str) -> None:
    """Refuse parameters that evaluation does not use: they were not traced, and would not be cut."""
    prefix = f"{part}." if part else ""
    idle = [n for n, _ in model.named_parameters() if n.startswith(prefix) and n not in run.used]
    if not idle:
        return
    others = f" and {number_of(len(idle) - 1, 'more parameter')} are" if len(idle) > 1 else " is"
    unused = f"{idle[0]}{others} unused when {type(model).__name__} is evaluated"
    if "forward" in vars(model):
        raise TraceError(
            f"{unused}: its forward is a function that computes with the modules of another object, of which "
            "this is a copy; define forward in the class, or bind it with types.MethodType"
        )
    raise TraceError(f"{unused} (an auxiliary head?); set such modules to None, and switch their use off")
