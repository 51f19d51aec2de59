"""The Hydra application of every command: compose, check, instantiate, and report errors in one message."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cli import command_line, exits, groups, schema, suggest
from experiments.cli.checking import ConfigError as ConfigError
from experiments.cli.checking import check_settings as check_settings
from experiments.cli.checking import plain as plain
from experiments.cli.signatures import PACKAGES, settings

CONF = Path(__file__).resolve().parents[2] / "conf"
PREFLIGHT = "experiments.cli.preflight:check"  # imported when each setting is right
ALONE = "experiments.recording.lock:alone"  # imported when a job is
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: exceptions reach the caller instead of its printer

schema.register()
sys.path.append(str(Path(__file__).parent / "plugins"))  # Hydra takes plugins from packages of one name alone


def command(config_name: str, *, job: str, locks: bool = True) -> Callable[[], None]:
    """The entry point of a command: composes and checks its configuration, then calls its job.

    The job's module is imported after the configuration has been checked: a job may import torch at its
    top, and ``--help`` and a misspelt key still answer at once. A command with an ``output`` is alone in that
    folder, which is not made before. A wrong configuration, every error class of our own packages, a full
    disk and the like end in one message on stderr and exit status 2; a signal ends in 128 and its number. Any
    other exception keeps its traceback, and all do under ``HYDRA_FULL_ERROR=1``.

    Args:
        config_name: the command's file in ``conf/``, without suffix.
        job: ``module:function``; the function takes the configuration and the output folder.
        locks: whether the command locks its ``output`` while it runs; if not, the job locks what it writes.
    """
    started, debugging, typed_for = False, os.environ.get(FULL_ERROR) == "1", os.getpid()

    def explained(error: Exception) -> str:
        return suggest.explain(error, CONF, config_name, sys.argv[1:])

    def task(cfg: DictConfig) -> object:
        nonlocal started
        started = True
        hydra_cfg = HydraConfig.get()
        try:
            check_settings(cfg)
            _imported(PREFLIGHT)(cfg)
            with exits.by_signals(), exits.with_parent(typed_for):
                return _worked(cfg, hydra_cfg, job, locks)
        except Exception as error:
            if not debugging:
                exits.end_run(error, hydra_cfg, explained)
            raise

    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)

    def run() -> None:
        nonlocal started
        started = False
        with _spelled_out():
            if debugging:
                entry()
                return
            try:
                with _full_errors(), exits.by_signals():
                    command_line.check_flags(sys.argv[1:])
                    entry()
                    sys.stdout.flush()
            except BaseException as error:
                exits.end_command(error, explained, started=started)
                raise

    return run


@contextmanager
def _spelled_out() -> Iterator[None]:
    """Replace short names in the command line, see `command_line.spelled_out`."""
    typed = sys.argv
    sys.argv = [typed[0], *command_line.spelled_out(typed[1:])]
    try:
        yield
    finally:
        sys.argv = typed


def _folder(cfg: DictConfig, hydra_cfg: HydraConf) -> Path:
    """The folder of a run, which Hydra makes in a sweep alone."""
    if "output" not in cfg or hydra_cfg.mode == RunMode.MULTIRUN:
        return Path(hydra_cfg.runtime.output_dir)
    return Path(cfg.output).absolute()


def _worked(cfg: DictConfig, hydra_cfg: HydraConf, job: str, locks: bool) -> object:
    """Run a job with its output folder locked, and return its result; a locked folder is an error at once."""
    folder = _folder(cfg, hydra_cfg)
    with _imported(ALONE)(folder) if locks and "output" in cfg else nullcontext():
        return _imported(job)(cfg, folder)


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def complete(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain data, with the defaults of the classes that the open groups name."""
    found = plain(cfg)
    for group in groups.OPEN:
        if group in found:
            known = settings(found[group]["_target_"])
            found[group] = {key: setting.default for key, setting in known.items()} | found[group]
    return found


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
    with config_errors(target):
        return located(target)(**given, **arguments)


@contextmanager
def config_errors(name: str) -> Iterator[None]:
    """Turn a ValueError or TypeError of our own code into a `ConfigError` that starts with a name."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if exits.is_ours(error) or not _raised_here(error):
            raise
        raise ConfigError(f"{name}: {error}") from error


def accepted(node: Mapping[str, Any] | DictConfig, **offered: Any) -> dict[str, Any]:
    """The offered arguments that a node's target accepts by name, such as ``decisions`` of some agents."""
    target = located(node["_target_"])
    makers = [target]
    if isinstance(target, type):
        makers = [vars(base)["__init__"] for base in target.__mro__[:-1] if "__init__" in vars(base)]
    names = {name for maker in makers for name in inspect.signature(maker).parameters}
    return {name: value for name, value in offered.items() if name in names}


def _raised_here(error: Exception) -> bool:
    """Whether our own code raised the error, not a library that it used wrongly."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in PACKAGES


def located(target: str) -> Callable[..., Any]:
    """The class or function of a dotted name; raises `ConfigError` if there is none."""
    try:
        found: object = hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_ {target} cannot be loaded: {error}") from error
    if not callable(found):
        raise ConfigError(f"_target_ {target} is not callable")
    return found


@contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra's exceptions propagate instead of printing them."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        del os.environ[FULL_ERROR]
        if before is not None:
            os.environ[FULL_ERROR] = before
