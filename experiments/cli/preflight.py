"""Checks before a job is imported: settings that depend on each other, and files that will be read."""

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from amc_env.functions import function
from experiments.cli import commands, contenders, limits, places, suggest
from experiments.cli.checking import ConfigError, at, beyond, plain
from experiments.cli.signatures import ROOT, settings
from experiments.recording import wandb_names

PICTURES = (".png", ".svg", ".pdf")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")  # of a committed result
REPORTED = ("fashion", "cifar")  # how the names of tables begin that results are reported on
WANDB = "experiments.recording.wandb_tracker.WandbTracker"
SHARED_RATE = 0.005  # highest learning rate of shared values


def check(cfg: DictConfig) -> None:
    """Check what `check_settings` cannot, as it looks at each setting alone.

    Modules of the user's own that the command line names are imported; slow modules of ours are not.

    Raises:
        ConfigError, TrackingError: with what is possible.
        RecordError: for a folder that holds no run, or a damaged one.
    """
    for one in CHECKS:
        one(cfg)


def _data(cfg: DictConfig) -> None:
    """Only data sets that have options are given some; photographs are in a folder or a zip."""
    name, root = at(cfg, "data.name"), at(cfg, "data.root")
    if (options := at(cfg, "data.options")) and name not in (*limits.OF_FOLDERS, "import"):
        given = ", ".join(options)
        raise ConfigError(f"data.options has {given}, data={name} takes none: leave them out")
    if name == "digits" and root is not None:
        raise ConfigError(f"data.root is {root}, but digits come with scikit-learn: leave it out")
    if name == "photos" and not Path(root).is_dir() and not zipfile.is_zipfile(root):
        raise ConfigError(
            f"data.root is {root}, which is neither a folder nor a zip of images, or is damaged: give another"
        )


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


def _times(cfg: DictConfig) -> None:
    """A budget in milliseconds has its latency table, which is undamaged."""
    key = "protocol.latency" if "protocol" in cfg else "latency"
    measured = "`python -m experiments.latency table=FILE model=... data=...`"
    asked = [at(cfg, "protocol.resource"), at(cfg, "protocol.reward"), cfg.get("resource")]
    if (path := at(cfg, key)) is not None:
        places.check_json(key, Path(path), f"measure it with {measured}")
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


def _latency(cfg: DictConfig) -> None:
    """`experiments.latency` times checkpoints, or measures a table, or runs networks in turn."""
    if cfg.table is None and cfg.checkpoint is None:
        raise ConfigError(f"{suggest.needed('checkpoint')}, or table=FILE for a table of layers")
    if cfg.device == "cuda" and cfg.runtime != "torch":
        raise ConfigError(f"device is cuda with {cfg.runtime}; cpu, or cuda with runtime=torch")
    if cfg.table is not None and cfg.runs and cfg.result is None:
        raise ConfigError("runs are measured into a file: give result=FILE")
    if cfg.table is not None and (cfg.runs or Path(cfg.table).exists()):
        otherwise = "measure it with the same command without runs, into a new file"
        places.check_json("table", Path(cfg.table), otherwise)


def _channels_alone(cfg: DictConfig) -> None:
    if cfg.compressor.method != "channels":
        raise ConfigError(
            f"this command compresses channels alone, not compressor.method={cfg.compressor.method}"
        )


def _photos(cfg: DictConfig) -> None:
    """`experiments.photos` compares with methods that cut to a fraction of the MACs."""
    if cfg.one_shot and cfg.resource != "macs":
        raise ConfigError(
            f"one_shot cuts to a fraction of the MACs, but resource is {cfg.resource}: give one_shot=[]"
        )
    _channels_alone(cfg)


def _tune(cfg: DictConfig) -> None:
    """`experiments.tune` uses no table that results are reported on."""
    if cfg.table.startswith(REPORTED):
        raise ConfigError(
            f"table={cfg.table} is what results are reported on; tune on another, as table=digits"
        )


def _pretrain_agent(cfg: DictConfig) -> None:
    """`experiments.pretrain_agent` can write its critics."""
    path = Path(cfg.critic)
    if not path.name or any(folder.is_file() for folder in path.parents):
        raise ConfigError(f"critic={cfg.critic} cannot be written: give critic=FOLDER/NAME, without suffix")


def _report(cfg: DictConfig) -> None:
    """`experiments.report keep` takes a run and a name."""
    if (cfg.keep is None) != (cfg.name is None):
        raise ConfigError("keep=RUN and name=NAME go together: report keep RUN NAME")
    if cfg.name is not None:
        check_name(cfg.name)


def _command(cfg: DictConfig) -> None:
    """Rules of single commands."""
    if (rule := RULES.get(OmegaConf.get_type(cfg))) is not None:
        rule(cfg)


def check_name(name: str) -> None:
    """Raise a `ConfigError` unless a name can be that of a committed result."""
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"the name {name!r}: letters, digits and _ . + - alone, such as ddpg_elites-flops_30-0"
        )


def _contenders(cfg: DictConfig) -> None:
    """Contenders of the command line are possible; those in ``conf/`` are tested, as this takes a second."""
    shipped = [OmegaConf.load(file) for file in (ROOT / "conf/contenders").glob("*.yaml")]
    for name in contenders.chosen(cfg) if "contenders" in cfg else ():
        if not any(cfg.contenders[name] in file.values() for file in shipped):
            contenders.configured(name, cfg.contenders[name])


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


RULES: dict[Any, Callable[[DictConfig], None]] = {
    commands.LatencyConfig: _latency,
    commands.PhotosConfig: _photos,
    commands.FidelityConfig: _channels_alone,
    commands.TuneConfig: _tune,
    commands.PretrainAgentConfig: _pretrain_agent,
    commands.ReportConfig: _report,
}

CHECKS: tuple[Callable[[DictConfig], Any], ...] = (
    _command, places.exist, _data, _limits, places.undamaged, _times, _tracking, _networks, _functions,
    _images, _contenders, _rates, _errors,
)  # fmt: skip
