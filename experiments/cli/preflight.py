"""Checks before a job is imported: settings that depend on each other, and files that will be read."""

import re
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from amc_env import files
from amc_env.functions import function
from experiments.cli import limits, suggest
from experiments.cli.checking import ConfigError, at, beyond, check_settings, listed, plain
from experiments.cli.signatures import ROOT, settings
from experiments.recording import wandb_names
from experiments.recording.record import RECORD, RunRecord

PICTURES = (".png", ".svg", ".pdf")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")  # of a committed result
REPORTED = ("fashion", "cifar")  # how the names of tables begin that results are reported on
WANDB = "experiments.recording.wandb_tracker.WandbTracker"
OF_CONTENDERS = ("protocol.reward", "env.scale", "env.beta")  # what differs beside the agent
SHARED_RATE = 0.005  # highest learning rate of shared values
WIDTH = 100  # characters of a line of names


def check(cfg: DictConfig) -> None:
    """Check what `check_settings` cannot, as it looks at each setting alone.

    Modules of the user's own that the command line names are imported; slow modules of ours are not.

    Raises:
        ConfigError, TrackingError: with what is possible.
        RecordError: for a folder that holds no run, or a damaged one.
    """
    for one in CHECKS:
        one(cfg)


def _places(cfg: DictConfig) -> None:
    """Files and folders that will be read exist."""
    if at(cfg, "data.name") in limits.OF_FOLDERS and at(cfg, "data.root") is None:
        raise ConfigError(suggest.needed("data.root"))
    for key, path, endings in _asked(cfg):
        if path is not None and not any(Path(f"{path}{ending}").exists() for ending in endings):
            what = " or ".join(f"{path}{ending}" for ending in endings)
            raise ConfigError(f"{key} is {path}, but there is no {what}: give {key}=PATH of one that exists")


def _asked(cfg: DictConfig) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """Each key that names a path to read, the path, and the possible endings of its files."""
    yield "data.root", at(cfg, "data.root"), ("",)
    if at(cfg, "data.name") == "imagefolder":
        yield "data.root", at(cfg, "data.root"), ("/train",)
    for key in ("model.checkpoint", "checkpoint"):
        for path in listed(at(cfg, key)):
            file = path is not None and (Path(path).suffix or Path(path).is_dir())
            yield key, path, ("", *limits.STEM) if file else limits.STEM
    for key in _runs(cfg):
        yield key, cfg.get(key), (f"/{RECORD}",)
    if isinstance(cfg.get("runs"), str):
        yield "runs", cfg.runs, ("",)


def _runs(cfg: DictConfig) -> Sequence[str]:
    """Keys that name the folder of a run; ``keep`` of `experiments.deep_compress` does not."""
    return ("run", "policy", "keep") if "name" in cfg else ("run", "policy")


def _data(cfg: DictConfig) -> None:
    """Only data sets that have options are given some; photographs are in a folder or a zip."""
    name, root = at(cfg, "data.name"), at(cfg, "data.root")
    if (options := at(cfg, "data.options")) and name not in (*limits.OF_FOLDERS, "import"):
        given = ", ".join(options)
        raise ConfigError(f"data.options has {given}, data={name} takes none: leave them out")
    if name == "digits" and root is not None:
        raise ConfigError(f"data.root is {root}, but digits come with scikit-learn: leave it out")
    if name == "photos" and not Path(root).is_dir() and not zipfile.is_zipfile(root):
        raise ConfigError(f"data.root is {root}, which is neither a folder nor a zip of images: give one")


def _limits(cfg: DictConfig) -> None:
    """Further limits of a protocol are fractions of the dense network's cost, each of another resource."""
    bounds: Any = at(cfg, "protocol.limits") or DictConfig({})
    if not isinstance(bounds, DictConfig):
        raise ConfigError(f"protocol.limits is {bounds!r}: give shares by resource, as {{params:0.5}}")
    known = [one for one in limits.RESOURCES if one != at(cfg, "protocol.resource")]
    for key, share in plain(bounds).items():
        if key not in known:
            raise ConfigError(f"protocol.limits has {key}; there are {', '.join(known)} beside the target's")
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise ConfigError(f"protocol.limits.{key} is {share!r}, it is above 0 and at most 1")


def _content(cfg: DictConfig) -> None:
    """Records and cards that will be read are undamaged."""
    for key in _runs(cfg):
        if cfg.get(key) is not None:
            RunRecord.read(Path(cfg[key]))
    for key in ("model.checkpoint", "checkpoint"):
        for stem in listed(at(cfg, key)):
            if stem is not None and (card := Path(f"{stem}.json")).is_file():
                _whole(key, card, "take it from its source again")
    if isinstance(cfg.get("runs"), str) and next(Path(cfg.runs).rglob(RECORD), None) is None:
        raise ConfigError(f"no run is in {cfg.runs}: give runs=FOLDER, the output of a search or of a sweep")


def _whole(key: str, path: Path, otherwise: str) -> None:
    try:
        files.read_json(path)
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); {otherwise}") from error
    except files.DamagedError as error:
        raise ConfigError(f"{key}: {error}; {otherwise}") from error


def _times(cfg: DictConfig) -> None:
    """A budget in milliseconds has its latency table, which is undamaged."""
    key = "protocol.latency" if "protocol" in cfg else "latency"
    measured = "`python -m experiments.latency table=FILE model=... data=...`"
    asked = [at(cfg, "protocol.resource"), at(cfg, "protocol.reward"), cfg.get("resource")]
    if (path := at(cfg, key)) is not None:
        _whole(key, Path(path), f"measure it with {measured}")
    elif "latency" in [*asked, *(at(cfg, "protocol.limits") or {})]:
        raise ConfigError(
            f"time is asked for, and no latency table is given: give {key}=FILE, made with {measured}"
        )


def _tracking(cfg: DictConfig) -> None:
    """W&B accepts the names of project, group and tags as they are."""
    tracking = plain(cfg.get("tracking") or DictConfig({}))
    if (target := tracking.get("_target_")) == WANDB:
        found = {key: setting.default for key, setting in settings(target).items()} | tracking
        wandb_names.check(found["project"], found["group"], found["tags"])


def _functions(cfg: DictConfig) -> None:
    """The user's own functions exist."""
    asked = [(key, cfg.get(key)) for key in ("target", "metric")]
    asked += [
        (f"{part}.options.target", at(cfg, f"{part}.options.target"))
        for part in ("model", "data")
        if at(cfg, f"{part}.name") == "import"
    ]
    for key, target in asked:
        if target is not None:
            try:
                function(str(target), key)
            except ValueError as error:
                raise ConfigError(str(error)) from error


def _networks(cfg: DictConfig) -> None:
    """Networks are known by name; those that are searched have weights."""
    name, options = at(cfg, "model.name"), at(cfg, "model.options") or {}
    for key, one, others in [("model.name", name, ("import",)), *_surveyed(cfg)]:
        known = (*limits.MODELS, *others)
        if one is not None and "/" not in one and (wrong := beyond(one, known)) is not None:
            raise ConfigError(f"{key} is {one!r}{wrong}")
    if "agent" in cfg and "/" in name and cfg.model.checkpoint is None and not options.get("weights"):
        raise ConfigError(
            f"{name} has no weights: give a file, model.options.weights=FILE, or train it on your data, "
            f"python -m experiments.pretrain model={name} data={cfg.data.name}, and give its "
            "model.checkpoint=STEM"
        )


def _surveyed(cfg: DictConfig) -> Iterator[tuple[str, str, Sequence[str]]]:
    for name in cfg.get("models") or ():
        yield "models", name, ("timm", "torchvision")


def _images(cfg: DictConfig) -> None:
    """The shape of an image is possible, and a picture can be written."""
    if cfg.get("shape") is not None and len(cfg.shape) != 3:
        raise ConfigError(f"shape is {list(cfg.shape)}; it is [C,H,W], each at least 1")
    if (picture := cfg.get("picture")) is None:
        return
    if Path(picture).suffix not in PICTURES:
        raise ConfigError(f"picture is {picture!r}; its name ends in {' or '.join(PICTURES)}")
    if above := [str(folder) for folder in Path(picture).parents if folder.is_file()]:
        raise ConfigError(
            f"the picture cannot be written ({above[0]} is a file): choose another place, picture=FILE.png"
        )


def _commands(cfg: DictConfig) -> None:
    """Rules of single commands."""
    if "batches" in cfg:  # of `experiments.latency`
        if cfg.table is None and cfg.checkpoint is None:
            raise ConfigError(f"{suggest.needed('checkpoint')}, or table=FILE for a table of layers")
        if cfg.device == "cuda" and cfg.runtime != "torch":
            raise ConfigError(f"device is cuda with {cfg.runtime}; cpu, or cuda with runtime=torch")
        if cfg.table is not None and cfg.runs and cfg.result is None:
            raise ConfigError("runs are measured into a file: give result=FILE")
        if cfg.table is not None and (cfg.runs or Path(cfg.table).exists()):
            _whole("table", Path(cfg.table), "measure it with the same command without runs, into a new file")
    if cfg.get("one_shot") and cfg.resource != "macs":
        raise ConfigError(
            f"one_shot cuts to a fraction of the MACs, but resource is {cfg.resource}: give one_shot=[]"
        )
    of_channels = "one_shot" in cfg or ("part" in cfg and "steps" in cfg)  # photos and fidelity
    if of_channels and cfg.compressor.method != "channels":
        raise ConfigError(
            f"this command compresses channels alone, not compressor.method={cfg.compressor.method}"
        )
    if "trials" in cfg and cfg.table.startswith(REPORTED):
        raise ConfigError(
            f"table={cfg.table} is what results are reported on; tune on another, as table=digits"
        )
    if "keep" in _runs(cfg):
        if (cfg.keep is None) != (cfg.name is None):
            raise ConfigError("keep=RUN and name=NAME go together: report keep RUN NAME")
        if cfg.name is not None:
            check_name(cfg.name)


def check_name(name: str) -> None:
    """Raise a `ConfigError` unless a name can be that of a committed result."""
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"the name {name!r}: letters, digits and _ . + - alone, such as ddpg_elites-flops_30-0"
        )


def contenders(cfg: DictConfig) -> list[str]:
    """The names of the chosen contenders.

    Raises:
        ConfigError: for a name that does not exist.
    """
    if cfg.get("only") is not None and (wrong := [name for name in cfg.only if name not in cfg.contenders]):
        meant = suggest.meant(wrong[0], list(cfg.contenders))
        names = textwrap.fill(", ".join(cfg.contenders), WIDTH, break_on_hyphens=False)
        raise ConfigError(f"only: there is no contender {wrong[0]!r}{meant}; there are\n{names}")
    if cfg.get("only") == [] and not cfg.get("one_shot"):
        raise ConfigError("only is empty: give it as only=[VALUE,...]")
    return list(cfg.contenders if cfg.only is None else cfg.only)


def contender(name: str, overrides: Sequence[str]) -> DictConfig:
    """The main job's configuration with a contender's overrides.

    Raises:
        ConfigError: with its name, for a wrong override, or one of a setting that all contenders share.
    """
    try:
        for one in OverridesParser.create().parse_overrides(list(overrides)):
            key = one.key_or_group
            if key.partition(".")[0] != "agent" and key not in OF_CONTENDERS:
                raise ConfigError(
                    f"{key} is the same for all; a contender has agent, {', '.join(OF_CONTENDERS)}"
                )
        made = compose("config", list(overrides))
        check_settings(made)
    except Exception as error:  # Hydra's, OmegaConf's and ours alike
        raise ConfigError(f"contender {name}: {error}") from error
    return made


def _contenders(cfg: DictConfig) -> None:
    """Contenders of the command line are possible; those in ``conf/`` are tested, as this takes a second."""
    shipped = [OmegaConf.load(file) for file in (ROOT / "conf/contenders").glob("*.yaml")]
    for name in contenders(cfg) if "contenders" in cfg else ():
        if not any(cfg.contenders[name] in file.values() for file in shipped):
            contender(name, cfg.contenders[name])


def _rates(cfg: DictConfig) -> None:
    """The networks of a search will be fine-tuned at a rate that suits them."""
    recipe = next((key for key in ("finetune", "recipe") if key in cfg), None)
    if recipe is not None and cfg.get("deliver") is not False and cfg[recipe].epochs:
        check_rate(at(cfg, "compressor.method"), f"{recipe}.lr", cfg[recipe].lr)


def check_rate(method: str | None, key: str, rate: float) -> None:
    """Raise a `ConfigError` for a learning rate at which shared values diverge.

    Args:
        method: of the compressor.
        key: of the rate, for the message.
        rate: of fine-tuning.
    """
    if method == "weight_sharing" and rate > SHARED_RATE:
        raise ConfigError(
            f"{key} is {rate}, at which shared values diverge, as the gradient of one is the sum of those of "
            f"its weights: give {key}=0.0005, at most {SHARED_RATE}"
        )


READERS = {"agents.pretrained.Pretrained": "pretrained", "agents.rules.LeastError": "least_error"}


def _errors(cfg: DictConfig) -> None:
    """Some agents read the relative errors of layers, which a repair of channels knows."""
    reader = READERS.get(at(cfg, "agent._target_"))
    if reader is None or "compressor" not in cfg:
        return
    if cfg.compressor.method != "channels" or cfg.compressor.repair == "none":
        raise ConfigError(
            f"agent={reader} reads the errors of layers, which "
            f"compressor.method={cfg.compressor.method} with compressor.repair={cfg.compressor.repair} "
            "does not know: take method=channels and a repair, or another agent"
        )


CHECKS: tuple[Callable[[DictConfig], Any], ...] = (
    _commands, _places, _data, _limits, _content, _times, _tracking, _networks, _functions, _images,
    _contenders, _rates, _errors,
)  # fmt: skip
