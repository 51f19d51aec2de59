"""What every entry point needs of Hydra: composing, checking, instantiating, errors in one clear message."""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import schema, suggest
from experiments.cli.signatures import PACKAGES, settings

Job = Callable[[DictConfig, Path], object]  # of the configuration and the output folder

CONF = Path(__file__).resolve().parents[2] / "conf"
LOWEST = {"seed": 0, "episodes": 1, "confirm": 1, "save_every": 1}
MOST_EPOCHS = 100  # of a round of fine-tuning among candidates
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: exceptions reach the caller instead of its printer

schema.register()
sys.path.append(str(Path(__file__).parent / "plugins"))  # Hydra takes plugins from packages of one name alone


class ConfigError(ValueError):
    """A configuration that cannot be run."""


class RunError(RuntimeError):
    """How a run of a sweep failed: a message alone, which also comes whole from another process."""


def command(config_name: str, *, job: str) -> Callable[[], None]:
    """The entry point of a command: composes and checks its configuration, then calls its job.

    The job's module is imported after the configuration has been checked: a job may import torch at its
    top, and ``--help`` and a misspelt key still answer at once. A wrong configuration and every error class
    of our own packages end in one message on stderr and exit status 2. Any other exception keeps its
    traceback, and all do under ``HYDRA_FULL_ERROR=1``.

    Args:
        config_name: the command's file in ``conf/``, without suffix.
        job: ``module:function``; the function takes the configuration and the output folder.
    """
    started, debugging = False, os.environ.get(FULL_ERROR) == "1"

    def task(cfg: DictConfig) -> object:
        nonlocal started
        started = True
        hydra_cfg = HydraConfig.get()
        try:
            check_settings(cfg)
            return _imported(job)(cfg, Path(hydra_cfg.runtime.output_dir))
        except Exception as error:
            if not debugging:
                end_run(error, hydra_cfg)
            raise

    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)

    def guarded() -> None:
        if debugging:
            entry()
            return
        try:
            with _full_errors():
                entry()
        except (HydraException, OmegaConfBaseException) as error:
            stop(suggest.explain(error, CONF, config_name, sys.argv[1:]))
        except KeyboardInterrupt:
            stop("interrupted", 130)
        except Exception as error:
            stop_if_told(error)
            if isinstance(error, OSError) and not started:
                stop(f"the output folder cannot be written ({error}): choose another with output=FOLDER")
            raise

    def run() -> None:
        typed = sys.argv
        sys.argv = [typed[0], *spelled_out(typed[1:])]
        try:
            guarded()
        finally:
            sys.argv = typed

    return run


def _imported(job: str) -> Job:
    module, _, function = job.partition(":")
    found: Job = getattr(importlib.import_module(module), function)
    return found


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line as Hydra reads it, with the short names for networks from elsewhere understood.

    ``model=torchvision/NAME`` becomes a choice of its own: ``conf/model/torchvision.yaml`` with that name.
    Beside ``model=import``, ``target=module:function`` stands for ``model.options.target``. Both may be lists
    of a sweep. ``output``, the folder of a run, is that of a sweep as well.
    """
    models = [word.partition("=")[2] for word in words if re.match(r"\+{0,2}model=", word)]
    for name in re.findall(r"\btorchvision/(\w+)", " ".join(models)):
        node = OmegaConf.merge(
            OmegaConf.load(CONF / "model/torchvision.yaml"), {"name": f"torchvision/{name}"}
        )
        ConfigStore.instance().store(group="model/torchvision", name=name, node=node)
    folders = [word.partition("=")[2] for word in words if re.match(r"\+{0,2}output=", word)]
    words = [*words, *(f"hydra.sweep.dir={folder}" for folder in folders)]
    if not any(re.search(r"\bimport\b", model) for model in models):
        return words
    return [re.sub(r"^(\+{0,2})target=", r"\1model.options.target=", word) for word in words]


def stop_if_told(error: Exception) -> None:
    """Leave with an exception's message where it was raised to tell the user something."""
    if is_ours(error):
        stop(str(error))


def end_run(error: Exception, hydra_cfg: HydraConf) -> None:
    """Leave with an exception's message where it was raised to tell something; a sweep goes on instead.

    Raises:
        RunError: in a sweep, which tells it again at its end; here and now it is printed, a fault in full.
    """
    if hydra_cfg.mode != RunMode.MULTIRUN:
        stop_if_told(error)
        return
    if not is_ours(error):
        traceback.print_exception(error)
    message = str(error) if is_ours(error) else f"{type(error).__name__}: {error}"
    print(f"failed: {' '.join(hydra_cfg.overrides.task)}: {message}", file=sys.stderr)
    raise RunError(message) from None


def is_ours(error: BaseException) -> bool:
    """Whether an exception was raised to tell the user something, not by a fault of the program."""
    return type(error).__module__.partition(".")[0] in PACKAGES


def stop(message: str, status: int = 2) -> None:
    """Say why on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


def check_settings(cfg: DictConfig) -> None:
    """Check what the schema cannot: lowest values, missing ones, and the settings of the open groups.

    An open group names a class, and its keys and their types are what that class takes. Nothing of ours is
    imported for that; a class of the user's own is.

    Raises:
        ConfigError: with the near names, or the type that is expected.
    """
    for key, lowest in LOWEST.items():
        if key in cfg and cfg[key] < lowest:
            raise ConfigError(f"{key} is {cfg[key]}, it is at least {lowest}")
    for epochs in cfg.get("confirm_epochs", ()):
        if not 0 < epochs <= MOST_EPOCHS:
            raise ConfigError(
                f"confirm_epochs has {epochs}; epochs of a round are above 0, at most {MOST_EPOCHS}"
            )
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError("\n".join(map(suggest.needed, missing)))
    for group in schema.OPEN:
        if group in cfg:
            _check_group(group, plain(cfg[group]))


def complete(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain data, with the defaults of the classes that the open groups name."""
    found = plain(cfg)
    for group in schema.OPEN:
        if group in found:
            known = settings(found[group]["_target_"])
            found[group] = {key: setting.default for key, setting in known.items()} | found[group]
    return found


def plain(node: DictConfig | ListConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A group of the configuration, or the whole of it, as plain data: what keyword arguments are made of.

    Args:
        node: the group, not a list.
        resolve: put in what interpolations stand for.
    """
    found = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def instantiate(node: DictConfig | Mapping[str, Any], **arguments: Any) -> Any:
    """Build what ``_target_`` names, from the settings beside it and further arguments.

    Any class can be named: the user's own agents and trackers are built like ours. So the node has to be
    composed from ``conf/`` and the command line; one that was read from a record or another file must never
    get here.

    Raises:
        ConfigError: for a target that cannot be loaded, or settings that it refuses.
    """
    given: dict[str, Any] = plain(node) if isinstance(node, DictConfig) else dict(node)
    target = given.pop("_target_", None)
    if target is None:
        raise ConfigError(f"no _target_ in {sorted(given)}: it names the class to build")
    with told_as(target):
        return _locate(target)(**given, **arguments)


@contextmanager
def told_as(name: str) -> Iterator[None]:
    """Tell a setting that our own code refused in one message, which begins with the name of what refused."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if is_ours(error) or not _raised_here(error):
            raise
        raise ConfigError(f"{name}: {error}") from error


def accepted(node: Mapping[str, Any] | DictConfig, **offered: Any) -> dict[str, Any]:
    """Those of the offered arguments that a node's target takes by name, as some agents do ``decisions``."""
    target = _locate(node["_target_"])
    makers = [target]
    if isinstance(target, type):
        makers = [vars(base)["__init__"] for base in target.__mro__[:-1] if "__init__" in vars(base)]
    names = {name for maker in makers for name in inspect.signature(maker).parameters}
    return {name: value for name, value in offered.items() if name in names}


def _raised_here(error: Exception) -> bool:
    """Whether it was our own code that refused, rather than a library that our code used wrongly."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in PACKAGES


def _locate(target: str) -> Callable[..., Any]:
    try:
        found: object = hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_ {target} cannot be loaded: {error}") from error
    if not callable(found):
        raise ConfigError(f"_target_ {target} is not callable")
    return found


def _check_group(group: str, node: Mapping[str, Any]) -> None:
    if "_target_" not in node:
        raise ConfigError(f"no _target_ in group {group!r}: it names the class to build")
    known = settings(node["_target_"])
    for key, value in node.items():
        name = f"{group}.{key}"
        if key == "_target_":
            continue
        if key not in known:
            raise ConfigError(suggest.unknown_key(name, [f"{group}.{other}" for other in known]))
        if (expected := known[key].expected(value)) is not None:
            raise ConfigError(f"{name} is {value!r}, expected {expected}")


@contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra's exceptions through to us instead of having them printed."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        del os.environ[FULL_ERROR]
        if before is not None:
            os.environ[FULL_ERROR] = before
