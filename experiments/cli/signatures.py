"""Reads the settings of a class or function from its source, without importing it."""

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import hydra

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("amc_env", "agents", "experiments")
LIMITS = "LIMITS"  # a dict beside a module's settings: see `experiments.cli.checking.beyond`
TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}


class SignatureError(ValueError):
    """A target whose settings cannot be found."""


@dataclass(frozen=True)
class Setting:
    """A parameter with a default value: its type, `Any` where it is none of `TYPES`, and that value.

    ``limits`` are arguments of `experiments.cli.checking.beyond`; None if every value is possible.
    """

    kind: Any
    default: Any
    limits: Sequence[Any] | None = None

    def expected(self, value: Any) -> str | None:
        """The name of the expected type; None if the value has it."""
        kind = self.kind
        if kind is Any and isinstance(self.default, str):
            kind = str
        allowed = get_args(kind) or (kind,)
        if kind is Any or type(value) in allowed or (type(value) is int and float in allowed):
            return None
        return " or ".join("null" if one is NoneType else one.__name__ for one in allowed)


@cache
def settings(target: str) -> Mapping[str, Setting]:
    """The parameters of a class or function that have a default, by name.

    A class has those of its ``__init__`` or its dataclass fields, and those of its bases. Where a function or
    ``__init__`` of ours takes ``**settings``, the fields of the dataclass ``Settings`` in its module are
    added. A target in our packages is read as text; a user's own is imported.

    Args:
        target: the dotted name, as "agents.ddpg.DDPG".

    Raises:
        SignatureError: when there is no such class or function.
    """
    made: dict[str, Setting] = {}
    for name, setting in _all(target):
        known = made.setdefault(name, setting)  # a class comes before its bases, whose limits hold for it too
        made[name] = replace(known, limits=known.limits or setting.limits)
    return made


def is_ours(target: str) -> bool:
    """Whether a dotted name is in one of our three packages."""
    return target.partition(".")[0] in PACKAGES


def _all(target: str) -> Iterator[tuple[str, Setting]]:
    if is_ours(target):
        module, _, name = target.rpartition(".")
        yield from _read(module, name)
        return
    try:
        found = hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise SignatureError(f"_target_ {target} cannot be loaded: {error}") from error
    if not callable(found):
        raise SignatureError(f"_target_ {target} is not callable")
    yield from _inspected(found)


def _inspected(found: Any) -> Iterator[tuple[str, Setting]]:
    for maker in found.__mro__[:-1] if isinstance(found, type) else (found,):
        if is_ours(f"{maker.__module__}."):
            yield from _read(maker.__module__, maker.__qualname__)
            return
        if isinstance(maker, type) and "__init__" not in vars(maker):
            continue
        parameters = inspect.signature(maker).parameters.values()
        yield from ((p.name, Setting(Any, p.default)) for p in parameters if p.default is not p.empty)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return


def choices(module: str, name: str) -> tuple[Any, ...]:
    """The choices that a name has in a module of ours: keys of a dict, a tuple, or a ``Literal``.

    Raises:
        SignatureError: if the module lacks the name, or it is something else.
    """
    for node in _source(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in {target.id for target in targets if isinstance(target, ast.Name)}:
                return _members(node.value)
    if (home := dict(_imported(_source(module))).get(name)) is None:
        raise SignatureError(f"{module} has no {name}")
    return choices(home, name)


def _members(node: ast.expr) -> tuple[Any, ...]:
    match node:
        case ast.Dict(keys=keys):
            return tuple(ast.literal_eval(key) for key in keys if key is not None)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            found = ast.literal_eval(inner)
            return found if isinstance(found, tuple) else (found,)
    return tuple(ast.literal_eval(node))


@cache
def _limits(module: str) -> dict[str, Sequence[Any]]:
    """A module's `LIMITS`; a name in it is replaced by the choices of that name."""
    for node in _source(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == LIMITS:
            assert isinstance(node.value, ast.Dict)
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {
                ast.literal_eval(key): choices(module, value.id)
                if isinstance(value, ast.Name)
                else ast.literal_eval(value)
                for key, value in pairs
                if key is not None
            }
    return {}


def _read(module: str, name: str) -> Iterator[tuple[str, Setting]]:
    limits = _limits(module)
    for key, setting in _defined(module, name):
        yield key, replace(setting, limits=setting.limits or limits.get(key))


def _defined(module: str, name: str) -> Iterator[tuple[str, Setting]]:
    tree = _source(module)
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    found = definitions.get(name)
    if found is None:
        raise SignatureError(f"_target_ {module}.{name}: there is no such class or function")
    inside = [found] if isinstance(found, ast.FunctionDef) else found.body
    makers = [
        node for node in inside if isinstance(node, ast.FunctionDef) and node.name in (name, "__init__")
    ]
    passed_on = makers[0].args.kwarg if makers else ast.arg("kwargs")
    for maker in makers:
        yield from _parameters(module, maker)
    for node in () if makers else found.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation).startswith("ClassVar"):
            continue
        if isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, _setting(module, node.annotation, node.value)
    if passed_on is not None and passed_on.arg == "settings" and "Settings" in definitions:
        yield from _defined(module, "Settings")
    if isinstance(found, ast.FunctionDef) or passed_on is None:
        return
    imported = dict(_imported(tree))
    for base in found.bases:
        if isinstance(base, ast.Name) and is_ours(home := imported.get(base.id, module)):
            yield from _read(home, base.id)


@cache
def _source(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.exists():
            return ast.parse(file.read_text())
    raise SignatureError(f"_target_ {module}: there is no such module")


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((alias.asname or alias.name, node.module) for alias in node.names)


def _parameters(module: str, function: ast.FunctionDef) -> Iterator[tuple[str, Setting]]:
    arguments = function.args
    positional = (arguments.posonlyargs + arguments.args)[::-1]
    pairs = [*zip(positional, arguments.defaults[::-1], strict=False)][::-1]
    for argument, default in [*pairs, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
        if default is not None:
            yield argument.arg, _setting(module, argument.annotation, default)


def _setting(module: str, annotation: ast.expr | None, default: ast.expr) -> Setting:
    """A setting from its annotation; a ``Literal``, or a name of one, has choices."""
    limits = None
    if isinstance(annotation, ast.Name) and annotation.id not in TYPES:
        with suppress(SignatureError, ValueError):  # another class: nothing is known of its values
            limits = choices(module, annotation.id)
    elif isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        limits = _members(annotation)
    return Setting(_kind(annotation), _value(default), limits)


def _kind(annotation: ast.expr | None) -> Any:
    match annotation:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            kinds: list[Any] = [None if ast.unparse(one) == "None" else _kind(one) for one in (left, right)]
            return Any if Any in kinds else kinds[0] | kinds[1]
    return Any


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None  # a constant by its name: its value is not needed to check a setting
