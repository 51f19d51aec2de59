"""The arguments of a network, or of a part of one, with sizes in place of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from amc_env.graph.labels import TraceError

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Sizes:
    """The shape ``(1, ...)`` of a tensor argument, for one image."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """The arguments that a module is called with in a forward pass.

    Attributes:
        part: its name in the network; "" for the network itself.
        args: its positional arguments, each tensor in them a `Sizes`.
        kwargs: likewise, by name.
    """

    part: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_image(cls, shape: tuple[int, int, int]) -> Given:
        """The argument of a classifier: one image."""
        return cls("", (Sizes((1, *shape)),))

    @classmethod
    def of_call(cls, part: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Given:
        """The arguments that a part was called with, reduced to one image.

        Raises:
            TraceError: for anything else than tensors, plain values, and lists, tuples or dicts of them.
        """

        def sizes(value: Any) -> Any:
            if isinstance(value, Tensor):
                return Sizes((1, *value.shape[1:]) if value.ndim else ())
            if isinstance(value, PLAIN):
                return value
            raise TraceError(
                f"{part!r} is given a {type(value).__name__}; a part's inputs are tensors, or lists, tuples "
                "or dicts of them: choose a module inside it"
            )

        return cls(part, nested(args, sizes), nested(dict(kwargs), sizes))

    def filled(self, make: Callable[[tuple[int, ...]], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with ``make(sizes)`` in place of each `Sizes`."""

        def fill(value: Any) -> Any:
            return make(value.sizes) if isinstance(value, Sizes) else value

        return nested(self.args, fill), nested(dict(self.kwargs), fill)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"part": self.part, "args": _plain(self.args), "kwargs": _plain(dict(self.kwargs))}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Given:
        """The inverse of `to_dict`.

        Raises:
            TraceError: for facts of another form.
        """
        try:
            part, args, kwargs = facts["part"], _read(facts["args"]), _read(facts["kwargs"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TraceError(f"what a part is given is not written as it should be: {error!r}") from error
        if not (isinstance(part, str) and isinstance(args, tuple) and isinstance(kwargs, dict)):
            raise TraceError(f"what a part is given is not written as it should be: {facts}")
        return cls(part, args, kwargs)


def nested(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dicts with ``change`` applied to every other value."""
    if isinstance(value, tuple | list):
        found = [nested(each, change) for each in value]
        if hasattr(value, "_fields"):  # a NamedTuple
            return type(value)(*found)
        return tuple(found) if isinstance(value, tuple) else found
    if isinstance(value, dict):
        return {key: nested(each, change) for key, each in value.items()}
    return change(value)


def copied(value: Any) -> Any:
    """Nested arguments with a copy of every tensor."""
    return nested(value, lambda each: each.clone() if isinstance(each, Tensor) else each)


def tensors(values: object) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))


def _plain(value: Any) -> Any:
    if isinstance(value, Sizes):
        return {"tensor": list(value.sizes)}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_plain(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(each)] for key, each in value.items()]}
    return value


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return Sizes(tuple(int(size) for size in content))
    if kind == "dict":
        return {key: _read(each) for key, each in content}
    found = [_read(each) for each in content]
    return {"tuple": tuple(found), "list": found}[kind]
