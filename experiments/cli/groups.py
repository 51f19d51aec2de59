"""The typed settings of each configuration group.

A setting of a class or function of ours has its type and default from there.
"""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from omegaconf import MISSING

from experiments.cli.signatures import settings

ENVIRONMENT = "amc_env.building.make_env"  # its settings are those of three groups: these and compressor
PROTOCOL = ("resource", "target", "limits", "reward", "latency", "force")
ENV = ("scale", "beta", "reward_images", "device")
RECIPE = "experiments.training.recipe.Recipe"
SETTINGS = {"finetune": RECIPE, "recipe": RECIPE, "sharing": RECIPE} | dict.fromkeys(
    ("protocol", "env", "compressor"), ENVIRONMENT
)  # whose settings a group holds
OWN = ("keep_whole", "part", "metric")  # settings of the main job itself
OPEN = ("agent", "tracking")  # groups that name a class: their settings are what that class takes


def _of(name: str, target: str, *keys: str) -> Any:
    """The settings of a class or function, or those named, as a dataclass."""
    known = settings(target)
    chosen = [(key, known[key].kind, field(default=known[key].default)) for key in keys or known]
    return make_dataclass(name, chosen)


RecipeConfig = _of("RecipeConfig", RECIPE)
ProtocolConfig = _of("ProtocolConfig", ENVIRONMENT, *PROTOCOL)
EnvConfig = _of("EnvConfig", ENVIRONMENT, *ENV)
CompressorConfig = _of(
    "CompressorConfig",
    ENVIRONMENT,
    *(key for key in settings(ENVIRONMENT) if key not in (*PROTOCOL, *ENV, *OWN, "render_mode")),
)


@dataclass
class ModelConfig:
    """Which network: a name of `amc_env.zoo`, its options, and its weights."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None  # path without suffix; null: the one that ships for this model and data


@dataclass
class DataConfig:
    """Which data set; ``seed`` draws the held-out splits, ``root`` is a folder with raw files."""

    name: str = MISSING
    seed: int = 0
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the loader, or of the user's function
