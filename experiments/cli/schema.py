"""The typed schema of every configuration: types and required keys here, values in ``conf/``."""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from experiments.training.recipe import Recipe

OPEN = ("compressor", "env", "agent", "tracking")  # groups whose settings belong to the class they name

# Recipe is frozen, which OmegaConf takes for "read only"; its fields stay the only list of settings.
RecipeConfig = make_dataclass(
    "RecipeConfig", [(f.name, f.type, field(default=f.default)) for f in fields(Recipe)]
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
    options: dict[str, Any] = field(default_factory=dict)  # of `amc_env.data.imagefolder.load`


@dataclass
class ProtocolConfig:
    """A bound paired with a reward (decision 9); ``target`` is the share of the dense cost that may stay."""

    resource: str = MISSING
    target: float = MISSING
    reward: str = MISSING


@dataclass
class SearchConfig:
    """Everything that `experiments.search` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    compressor: Any = MISSING
    env: Any = MISSING
    agent: Any = MISSING
    tracking: Any = MISSING
    finetune: RecipeConfig = field(default_factory=RecipeConfig)  # type: ignore[valid-type]
    seed: int = MISSING
    targets: list[float] = field(default_factory=list)
    episodes: int = MISSING
    confirm: int = MISSING
    save_every: int = MISSING
    deliver: bool = MISSING
    output: str = MISSING


@dataclass
class PretrainConfig:
    """Everything that `experiments.pretrain` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tracking: Any = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)  # type: ignore[valid-type]
    device: str = MISSING
    output: str = MISSING


@dataclass
class FinetuneConfig:
    """Everything that `experiments.finetune` reads."""

    run: str = MISSING  # the folder of a search
    tracking: Any = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)  # type: ignore[valid-type]
    output: str = MISSING


@dataclass
class EvaluateConfig:
    """Everything that `experiments.evaluate` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    checkpoint: str = MISSING  # a path without suffix, an .onnx or a .pt2
    target: str | None = None  # module:function, for a checkpoint of a network of your own
    split: str = MISSING


@dataclass
class LatencyConfig:
    """Everything that `experiments.latency` reads."""

    checkpoint: Any = MISSING  # as above, or a list of them
    target: str | None = None
    batches: list[int] = MISSING
    repeats: int = MISSING
    warmup: int = MISSING


@dataclass
class DescribeConfig:
    """Everything that `experiments.describe` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    shape: list[int] | None = None
    classes: int | None = None
    repeats: int = MISSING
    warmup: int = MISSING
    format: str = MISSING
    picture: str | None = None


@dataclass
class ContendersConfig:
    """What many agents are compared at; ``contenders`` are overrides of the main job's config."""

    contenders: dict[str, list[str]] = MISSING
    targets: list[float] = MISSING
    seeds: int = MISSING
    episodes: int = MISSING
    output: str = MISSING


@dataclass
class CompareConfig(ContendersConfig):
    """Everything that `experiments.compare` and `experiments.budgets` read."""

    table: str = MISSING


@dataclass
class AblateConfig(ContendersConfig):
    """Everything that `experiments.ablate` reads."""

    experiment: str = MISSING


@dataclass
class TuneConfig:
    """Everything that `experiments.tune` reads; ``space`` holds overrides of the main job's config."""

    space: dict[str, Any] = MISSING
    table: str = MISSING
    targets: list[float] = MISSING
    seeds: int = MISSING
    episodes: int = MISSING
    trials: int = MISSING
    seed: int = MISSING
    output: str = MISSING


@dataclass
class FetchConfig:
    """Everything that `experiments.fetch` reads."""

    data: DataConfig = field(default_factory=DataConfig)


def register() -> None:
    """Make the schema known to Hydra; the files in ``conf/`` name it first in their defaults.

    What is ``Any`` is open to new classes: there the chosen yaml file is the schema, see
    `config.check_settings`.
    """
    setattr(ConfigStore, "__deepcopy__", _shared)  # noqa: B010 - no attribute that is declared
    store = ConfigStore.instance()
    store.store(name="search_schema", node=SearchConfig)
    store.store(name="pretrain_schema", node=PretrainConfig)
    store.store(name="finetune_schema", node=FinetuneConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="latency_schema", node=LatencyConfig)
    store.store(name="describe_schema", node=DescribeConfig)
    store.store(name="compare_schema", node=CompareConfig)
    store.store(name="ablate_schema", node=AblateConfig)
    store.store(name="tune_schema", node=TuneConfig)
    store.store(name="fetch_schema", node=FetchConfig)


def _shared(store: ConfigStore, memo: object) -> ConfigStore:
    """The store itself, in the place of a copy.

    Hydra copies it with all its nodes whenever it asks for the choices of a group, a hundred times for one
    ``--help``, and copies each node again as it is read: what is stored stays as it is.
    """
    return store
