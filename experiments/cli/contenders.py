"""The contenders of a comparison: names with overrides of the main job's configuration."""

import textwrap
from collections.abc import Sequence

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments.cli import suggest
from experiments.cli.checking import ConfigError, check_settings

OF_CONTENDERS = ("protocol.reward", "env.scale", "env.beta")  # what differs beside the agent
WIDTH = 100  # characters of a line of names


def chosen(cfg: DictConfig) -> list[str]:
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


def configured(name: str, overrides: Sequence[str]) -> DictConfig:
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
