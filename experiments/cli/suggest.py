"""Suggests near names for misspelt ones, which Hydra does not."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli.groups import OPEN
from experiments.cli.signatures import SignatureError, settings

LAUNCHER = "hydra/launcher"
OF_FUNCTIONS = ("model.options.", "data.options.")  # arguments of a function of the user's own
EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def explain(error: Exception, conf: Path, config_name: str, arguments: list[str]) -> str:
    """Explain an error in a command line with the nearest existing names, else by its own message."""
    try:
        words = get_args_parser().parse_known_args(arguments)[0]
        overrides = OverridesParser.create().parse_overrides(words.overrides)
        paths = [o.input_line for o in overrides if o.key_or_group == "hydra.searchpath" and o.input_line]
        if words.config_dir is not None:
            paths.append(f"hydra.searchpath=[{Path(words.config_dir).absolute()}]")
        found = list(_problems(overrides, conf, words.config_name or config_name, paths))
    except OverrideParseException as unread:
        word, reason = unread.override or "", str(error).splitlines()[0]
        found = [f"{word} cannot be read ({reason}): put quotes around {_quoted(word)}"]
    except (HydraException, SignatureError, ValueError):  # the error itself says better what cannot be read
        found = []
    return "\n".join(found) or _own_message(error)


def _quoted(word: str) -> str:
    """What to put in quotes in an override, and how."""
    key, _, value = word.partition("=")
    if value.startswith("[") and value.endswith("]") and "[" not in value[1:]:
        entries = ",".join(f"'{entry.strip()}'" for entry in value[1:-1].split(","))
        return f'its entries, as "{key}=[{entries}]"'
    return f"its value, as '{key}=\"{value}\"'"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """A message for a key that does not exist."""
    message = f"no key {key!r} in the configuration{meant(key, list(known))}"
    if key.startswith(OF_FUNCTIONS):
        message += f"; an argument of your own function is added as +{key}=VALUE"
    return message


def needed(key: str) -> str:
    """A message for a key that has no default."""
    return f"no value for {key}: give it as {key}=VALUE"


def unknown_choice(group: str, choice: str, choices: list[str]) -> str:
    """A message for a choice that a group does not have."""
    return f"no {choice!r} in group {group!r}{meant(choice, choices)}; there are {', '.join(choices)}"


def not_installed(group: str, choice: str, extra: str) -> str:
    """A message for a choice that needs an extra of this package."""
    return f"{group}={choice} is not installed: pip install 'amc-rl[{extra}]'"


def meant(name: str, known: list[str]) -> str:
    """A question in brackets that names similar names; "" without any."""
    names = _near(name, known)
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def _near(name: str, known: list[str]) -> list[str]:
    """At most three known names that end in this one, or else are similar to it, or end in a similar one."""
    if exact := [key for key in known if key.rpartition(".")[2] == name]:
        return exact[:3]
    if found := difflib.get_close_matches(name, known, n=3, cutoff=0.7):
        return found
    endings = {key.rpartition(".")[2]: key for key in reversed(known)}
    return [
        endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, n=3, cutoff=0.75)
    ]


def _problems(overrides: list[Override], conf: Path, config_name: str, paths: list[str]) -> Iterator[str]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = list(_groups(loader))
        chosen, keys = list(paths), []
        for override in overrides:
            group = override.key_or_group
            if group not in groups:
                keys += [] if override.is_add() else [group]
                continue
            choices = list(_choices(loader, group, config_name, paths))
            asked = [str(value) for value in _values(override)]
            wrong = [text for value in asked if (text := _problem(group, value, choices, conf))]
            yield from wrong
            if not wrong and override.input_line is not None and not override.is_sweep_override():
                chosen.append(override.input_line)
        composed = compose(config_name, chosen, return_hydra_config=True)
        values = dict(_keys(OmegaConf.to_container(composed)))
        values |= dict.fromkeys(_of_classes(composed))
        known = list(values)
        ours = [name for name in dict.fromkeys([*known, *groups]) if not name.startswith("hydra")]
        for key in keys:
            if key not in known:
                short = ["target"] if "model.options.target" in values else []  # of model=import
                yield unknown_key(key, known if key.startswith("hydra") else [*short, *ours])
        for key in ours:
            if values.get(key) == "???" and key not in keys:
                yield needed(key)


def _of_classes(composed: DictConfig) -> Iterator[str]:
    """The settings of the classes that open groups name, in addition to those in their files."""
    for group in OPEN:
        if target := (composed.get(group) or {}).get("_target_"):
            yield from (f"{group}.{key}" for key in settings(target))


def _problem(group: str, choice: str, choices: list[str], conf: Path) -> str | None:
    if group == LAUNCHER:
        parent = _parent(conf / group / f"{choice}.yaml") or choice
        if parent in EXTRAS and parent not in choices:
            return not_installed(group, choice, EXTRAS[parent])
        choices = list(dict.fromkeys([*choices, *EXTRAS]))
    return None if choice in (*choices, "null", "None") else unknown_choice(group, choice, choices)


def _parent(path: Path) -> str | None:
    """The choice that a file is based on, the first of its defaults; None without a file."""
    return str(OmegaConf.load(path).defaults[0]) if path.exists() else None


def _groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    for name in loader.list_groups(parent):
        group = f"{parent}/{name}" if parent else name
        yield group
        yield from _groups(loader, group)


def _choices(loader: ConfigLoader, group: str, config_name: str, paths: list[str]) -> Iterator[str]:
    yield from loader.get_group_options(group, ObjectType.CONFIG, config_name, paths)
    for inner in loader.list_groups(group):  # as model=torchvision/resnet50
        names = loader.get_group_options(f"{group}/{inner}", ObjectType.CONFIG, config_name, paths)
        yield from (f"{inner}/{name}" for name in names)


def _values(override: Override) -> list[object]:
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    return value if isinstance(value, list) else [value]


def _keys(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _keys(value, f"{prefix}{key}.")


def _own_message(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, with near names of a misspelt key."""
    lines = [str(error)]
    wrong = error.__cause__ or error.__context__ or error
    if isinstance(wrong, OmegaConfBaseException):
        if str(wrong) not in lines[0]:
            lines.append(str(wrong))
        known = list(getattr(wrong.object_type, "__dataclass_fields__", ()))
        if known and wrong.key not in known:
            parent = str(wrong.full_key).rpartition(".")[0]
            lines.append(unknown_key(str(wrong.full_key), [f"{parent}.{key}".lstrip(".") for key in known]))
    noise = ("reference_type", "object_type", "See https://")
    return "\n".join(line for line in "\n".join(lines).splitlines() if not line.strip().startswith(noise))
