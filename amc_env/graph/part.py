"""Finds out how a network calls one of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from amc_env.checks import did_you_mean
from amc_env.execution import evaluating
from amc_env.graph.given import Given
from amc_env.graph.labels import TraceError
from amc_env.graph.running import untouched


def observe(model: nn.Module, part: str, images: Any) -> Given:
    """Run the whole network once; the arguments that it calls a part with.

    Args:
        model: the whole network; left as it was.
        part: the name of a module in it.
        images: the argument of the network, in any form.

    Raises:
        TraceError: for a part that does not exist, is not called exactly once, shares modules with the rest
            of the network, or is called with anything but tensors and lists, tuples or dicts of them.
    """
    module = _found(model, part)
    _refuse_shared(model, module, part)
    watch = _Watch(part)
    with evaluating(model), untouched(model), watch.on(module):
        model(images)
    if len(watch.given) != 1:
        raise TraceError(
            f"{type(model).__name__} calls its part {part!r} {len(watch.given)} times in a forward pass; it "
            "has to be called once: choose a module around it, or one inside it"
        )
    return watch.given[0]


class _Watch:
    """Hooks that record the arguments of a part, and refuse calls of its layers from outside it."""

    def __init__(self, part: str) -> None:
        self.part, self.given, self._inside = part, list[Given](), 0

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            hooks.enter_context(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(self._leave))
            for name, child in module.named_modules():
                if name:
                    hooks.enter_context(child.register_forward_pre_hook(self._inner(name)))
            yield

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inside += 1
        self.given.append(Given.of_call(self.part, args, kwargs))

    def _leave(self, *_: object) -> None:
        self._inside -= 1

    def _inner(self, name: str) -> Any:
        def hear(*_: object) -> None:
            if not self._inside:
                raise TraceError(
                    f"{name!r} of {self.part!r} is called from outside the part, where its channels may not "
                    "change; choose a module around both"
                )

        return hear


def _found(model: nn.Module, part: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if not part or part not in known:
        children = ", ".join(name for name, _ in model.named_children())
        hint = did_you_mean(part, filter(None, known)) or f"there are {children}, and what is in them"
        raise TraceError(f"{type(model).__name__} has no part {part!r}; {hint}")
    return known[part]


def _refuse_shared(model: nn.Module, module: nn.Module, part: str) -> None:
    own = {id(each) for each in module.modules()}
    for name, each in model.named_modules(remove_duplicate=False):
        if id(each) in own and name != part and not name.startswith(f"{part}."):
            raise TraceError(
                f"{name!r} is a second name for a module of {part!r}; give the part modules of its own"
            )
