"""Imports the user's own functions by name."""

import importlib
from collections.abc import Callable
from typing import Any


def function(target: str, setting: str) -> Callable[..., Any]:
    """The user's function ``module:function``, which is imported because the command line names it.

    Args:
        target: as given.
        setting: the setting that names it, for messages.

    Raises:
        ValueError: when there is no such module or function.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"{setting} is module:function, as my_nets:build, not {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"there is no module {error.name!r} for {setting} {target!r}; is it on PYTHONPATH?"
        ) from error
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None or not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{module_name} has no function {name!r}; it has {', '.join(there) or 'none'}")
    return found
