"""Checks a configuration before anything is imported or written."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.cli import groups, limits, schema, suggest
from experiments.cli.signatures import Setting, settings

FINETUNE = "finetune"  # the recipe that may have no epochs: then nothing is trained


class ConfigError(ValueError):
    """A configuration that cannot be run."""


def check_settings(cfg: DictConfig) -> None:
    """Check what the schema cannot: limits, choices, missing values, and the settings of the open groups.

    An open group names a class, and its keys and their types are what that class takes. Nothing of ours is
    imported for that; a class of the user's own is.

    Raises:
        ConfigError: with the near names, the type that is expected, or what is possible.
    """
    kind = OmegaConf.get_type(cfg) or dict
    gone = sorted({key for key in schema.keys(kind) if key not in {*cfg, *OmegaConf.missing_keys(cfg)}})
    if missing := sorted(OmegaConf.missing_keys(cfg)) + gone:
        raise ConfigError("\n".join(map(suggest.needed, missing)))
    found = plain(cfg)
    if unknown := [key for key in found if schema.keys(kind) and key not in schema.keys(kind)]:
        raise ConfigError(suggest.unknown_key(unknown[0], schema.keys(kind)))
    for key, value in _leaves(found):
        _check_value(key, value)
    for key, allowed in limits.of(kind).items():
        if (value := at(found, key)) is not None:
            _check_limits(key, value, allowed)
    for group, target in groups.SETTINGS.items():
        if not isinstance(node := found.get(group, {}), Mapping):
            raise ConfigError(f"{group} is {node!r}: give its settings, as {group}.KEY=VALUE, see --help")
        _check_typed(group, node, settings(target))
    for group in groups.OPEN:
        if group in cfg:
            _check_group(group, found[group])
    _check_lists(found)


def plain(node: DictConfig | ListConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A configuration, or a group of it, as plain data for keyword arguments.

    Args:
        node: the group, not a list.
        resolve: replace interpolations by their values.
    """
    found = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _leaves(value, f"{prefix}[{at}]")
    else:
        yield prefix, node


def at(found: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _check_value(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} is {value}: give a finite number")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{key} is empty: give it as {key}=VALUE")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{key} has a zero byte in it: leave that out")


def _check_limits(key: str, value: Any, allowed: Any) -> None:
    for one in value if isinstance(value, ListConfig | list) else [value]:
        if (wrong := beyond(one, allowed)) is not None:
            raise ConfigError(f"{key} is {one!r}{wrong}")


def beyond(value: Any, allowed: Sequence[Any]) -> str | None:
    """How a value violates its limits; None if it does not.

    `amc_env.checks.beyond` says the same of a call from Python; importing it here would take seconds.

    Args:
        value: of a setting.
        allowed: the choices; or the lowest and the highest value, and perhaps the reason for the highest.
    """
    if isinstance(allowed[0], str):
        if value in allowed:
            return None
        return f"{suggest.meant(str(value), list(allowed))}; there are {', '.join(allowed)}"
    lowest, highest, *reason = allowed
    if lowest == highest != value:
        return f", this command takes {lowest} alone"
    if value < lowest:
        return f", it is at least {lowest}"
    return ": ".join([f", it is at most {highest}", *reason]) if value > highest else None


def _check_setting(key: str, value: Any, setting: Setting) -> None:
    if (expected := setting.expected(value)) is not None:
        raise ConfigError(f"{key} is {value!r}, expected {expected}")
    if value is not None and setting.limits is not None:
        _check_limits(key, value, setting.limits)


def _check_typed(group: str, node: Mapping[str, Any], known: Mapping[str, Setting]) -> None:
    """Check a group whose settings are those of one class or function."""
    for key, value in node.items():
        if key not in known:
            raise ConfigError(suggest.unknown_key(f"{group}.{key}", [f"{group}.{one}" for one in known]))
        if (group, key, value) != (FINETUNE, "epochs", 0):
            _check_setting(f"{group}.{key}", value, known[key])


def _check_group(group: str, node: Mapping[str, Any]) -> None:
    if "_target_" not in node:
        raise ConfigError(f"no _target_ in group {group!r}: it names the class to build")
    own = {key: value for key, value in node.items() if key != "_target_"}
    _check_typed(group, own, settings(node["_target_"]))


def _check_lists(found: Mapping[str, Any]) -> None:
    """Refuse empty lists of runs, and duplicates in them."""
    for key in limits.LISTS:
        values = found.get(key)
        if not isinstance(values, list):
            continue
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigError(f"{key} has {', '.join(map(str, repeated))} more than once: name each once")
        if not values:
            raise ConfigError(f"{key} is empty: give it as {key}=[VALUE,...]")


def listed(value: Any) -> list[Any]:
    """A value, or those of a list, as a list."""
    return list(value) if isinstance(value, ListConfig) else [value]
