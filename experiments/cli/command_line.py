"""Rewrites a command line: short names, and paths that Hydra's grammar does not read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from experiments.cli.limits import STEM
from experiments.cli.signatures import ROOT

PATHS = (
    "output", "run", "checkpoint", "model.checkpoint", "data.root", "picture", "policy", "keep", "critic",
    "latency", "protocol.latency", "result", "images", "runs", "sync", "table", "recipe.teacher",
    "finetune.teacher", "model.options.weights",
)  # fmt: skip
OF_FOLDER = ("model", "data", "protocol")  # groups that the folder of a sweep is named by
BARE_LIST = re.compile(r"\[[^'\"]*\]")
WORD = re.compile(r"(\+{0,2})([^=]*)=(.*)", re.DOTALL)


class CommandLineError(ValueError):
    """A command line that is not made of flags and key=value."""


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line as Hydra reads it, with short names expanded.

    ``model=torchvision/NAME`` becomes ``conf/model/torchvision.yaml`` with that name; ``model=timm/NAME``
    likewise. With ``model=import``, ``target=module:function`` means ``model.options.target``. Both may be
    lists of a sweep. ``output`` is the folder of a run, or of all runs of a sweep. A path that Hydra would
    not read as a text, such as one with an accent, ``=`` or a comma, or ``1e3``, is quoted.
    """
    models = [found[3] for word in words if (found := WORD.fullmatch(word)) and found[2] == "model"]
    for source, name in re.findall(r"\b(torchvision|timm)/([\w.]+)", " ".join(models)):
        node = OmegaConf.merge(
            OmegaConf.load(ROOT / f"conf/model/{source}.yaml"), {"name": f"{source}/{name}"}
        )
        ConfigStore.instance().store(group=f"model/{source}", name=name, node=node)
    swept = not {"-m", "--multirun"}.isdisjoint(words)
    imported = any(re.search(r"\bimport\b", model) for model in models)
    spelled = []
    for word in words:
        found = WORD.fullmatch(word)
        if found is None or word.startswith("-"):
            spelled.append(word)
            continue
        added, key, value = found.groups()
        if key in PATHS:
            each = _paths(value) if swept and key != "output" else [value]
            value = ",".join(readable(key, one) for one in each)
        if key == "target" and imported:
            key = "model.options.target"
        spelled.append(f"{added}{key}={value}")
        if key == "output":
            spelled += [f"hydra.sweep.dir={value}", *_told_in_names(words)]
    return spelled


def _told_in_names(words: Sequence[str]) -> list[str]:
    """Overrides that keep the groups that a sweep varies in the names of its folders."""
    varied = {found[2] for word in words if (found := WORD.fullmatch(word)) and "," in found[3]}
    if not varied.intersection(OF_FOLDER):
        return []
    others = [key for key in ("output", "sweep", *OF_FOLDER) if key not in varied]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(others)}]"]


def _paths(value: str) -> list[str]:
    """The paths of a list; those that exist may have commas of their own, as the folders of a sweep have."""
    pieces, found = value.split(","), list[str]()
    while pieces:
        longest = range(len(pieces), 0, -1)
        taken = next((count for count in longest if _exists(",".join(pieces[:count]))), 1)
        found.append(",".join(pieces[:taken]))
        pieces = pieces[taken:]
    return found


def _exists(path: str) -> bool:
    return any(Path(f"{path}{ending}").exists() for ending in ("", *STEM))


def readable(key: str, value: str) -> str:
    """A path, or a list of paths in brackets, as Hydra's grammar reads it, quoted if needed."""
    if key.endswith("checkpoint") and BARE_LIST.fullmatch(value):
        return f"[{','.join(readable(key, one) for one in value[1:-1].split(','))}]"
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return quoted(value)
    other = parsed.is_sweep_override() or isinstance(parsed.value(), int | float)  # than a text: c,d or 1e3
    return quoted(value) if other else value


def quoted(value: str) -> str:
    """A text in the quotes of Hydra's grammar."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value) + "'"


def check_flags(words: Sequence[str]) -> None:
    """Refuse unknown flags, and several choices of one group, which Hydra would merge.

    Raises:
        CommandLineError: describes a valid command line.
    """
    for word in words:
        found = WORD.fullmatch(word)
        if found and found[3].lstrip().startswith("[") and (ROOT / "conf" / found[2]).is_dir() and found[2]:
            raise CommandLineError(
                f"{word}: {found[2]} takes one choice; for a run of each, -m {found[2]}=A,B"
            )
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise CommandLineError(
            f"{message}; a command line is [group=choice] [key=value] ..., all together, and Hydra's flags: "
            "see --help and --hydra-help"
        )

    parser.error = refuse  # type: ignore[method-assign]
    folder = parser.parse_args(list(words)).config_dir
    if folder is not None and not Path(folder).is_dir():
        raise CommandLineError(f"--config-dir {folder}: there is no such folder; give one that exists")
