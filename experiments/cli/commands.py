"""The typed configuration of each command.

What a command alone reads has its value in ``conf/`` and its limits in `experiments.cli.limits`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.cli.groups import (
    CompressorConfig,
    DataConfig,
    EnvConfig,
    ModelConfig,
    ProtocolConfig,
    RecipeConfig,
)


@dataclass
class NetworkConfig:
    """A network and its data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class SearchConfig(NetworkConfig):
    """Everything that `experiments.search` reads."""

    protocol: Any = field(default_factory=ProtocolConfig)
    compressor: Any = field(default_factory=CompressorConfig)
    env: Any = field(default_factory=EnvConfig)
    agent: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    finetune: Any = field(default_factory=RecipeConfig)
    keep_whole: list[str] = field(default_factory=list)
    part: str | None = None
    metric: str | None = None  # module:function
    seed: int = MISSING
    episodes: int = MISSING
    confirm: int = MISSING
    save_every: int = MISSING
    deliver: bool = MISSING
    output: str = MISSING


@dataclass
class PretrainConfig(NetworkConfig):
    """Everything that `experiments.pretrain` reads."""

    tracking: dict[str, Any] = field(default_factory=dict)
    recipe: Any = field(default_factory=RecipeConfig)
    device: str = MISSING
    output: str = MISSING


@dataclass
class FinetuneConfig:
    """Everything that `experiments.finetune` reads."""

    run: str = MISSING  # the folder of a search
    target: str | None = None  # module:function, where the search was of a network of your own
    tracking: dict[str, Any] = field(default_factory=dict)
    recipe: Any = field(default_factory=RecipeConfig)
    output: str = MISSING


@dataclass
class EvaluateConfig:
    """Everything that `experiments.evaluate` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    checkpoint: str = MISSING  # a path without suffix, an .onnx or a .pt2
    target: str | None = None  # module:function, for a checkpoint of a network of your own
    trust: bool = MISSING  # read a .pt2, which may run code, and an .onnx without its digest beside it
    metric: str | None = None  # module:function in the place of accuracy
    split: str = MISSING


@dataclass
class LatencyConfig(NetworkConfig):
    """Everything that `experiments.latency` reads."""

    checkpoint: Any = None  # as above, or a list of them
    target: str | None = None
    trust: bool = MISSING
    batches: list[int] = MISSING
    repeats: int = MISSING
    warmup: int = MISSING
    table: str | None = None  # measure a table of model's layers into this file, instead of checkpoints
    runs: list[str] | None = None  # searches, whose networks are run beside what the table promises
    result: str | None = None  # the file of what they take
    shape: list[int] | None = None
    classes: int | None = None
    keep_whole: list[str] = field(default_factory=list)
    runtime: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    batch: int = MISSING
    floor: float = MISSING
    force: bool = MISSING


@dataclass
class DescribeConfig(NetworkConfig):
    """Everything that `experiments.describe` reads."""

    shape: list[int] | None = None
    classes: int | None = None
    repeats: int = MISSING
    warmup: int = MISSING
    format: str = MISSING
    picture: str | None = None


@dataclass
class SurveyConfig:
    """Everything that `experiments.survey` reads."""

    models: list[str] = MISSING
    plans: int = MISSING
    output: str = MISSING


@dataclass
class ContendersConfig:
    """Settings of comparisons between agents; ``contenders`` are overrides of the main job's config."""

    contenders: dict[str, list[str]] = MISSING
    only: list[str] | None = MISSING
    targets: list[float] = MISSING
    first_seed: int = MISSING
    seeds: int = MISSING
    episodes: int = MISSING
    output: str = MISSING


@dataclass
class CompareConfig(ContendersConfig):
    """Everything that `experiments.compare` reads."""

    table: str = MISSING


@dataclass
class TunedOptimaConfig(CompareConfig):
    """Everything that `experiments.tuned_optima` reads."""

    plans: int = MISSING
    tunings: int = MISSING
    device: str = MISSING
    recipe: Any = field(default_factory=RecipeConfig)


@dataclass
class PretrainAgentConfig:
    """Everything that `experiments.pretrain_agent` reads."""

    targets: list[float] = MISSING
    searched: list[float] = MISSING
    episodes: int = MISSING
    steps: int = MISSING
    critic: str = MISSING
    output: str = MISSING


@dataclass
class FidelityConfig(NetworkConfig):
    """Everything that `experiments.fidelity` reads."""

    protocol: Any = field(default_factory=ProtocolConfig)
    compressor: Any = field(default_factory=CompressorConfig)
    plans: int = MISSING
    seeds: int = MISSING
    reward_images: int | None = MISSING
    steps: int = MISSING
    part: list[int] = MISSING
    device: str = MISSING
    seed: int = MISSING
    recipe: Any = field(default_factory=RecipeConfig)
    output: str = MISSING


@dataclass
class DeepCompressConfig(NetworkConfig):
    """Everything that `experiments.deep_compress` reads."""

    tracking: dict[str, Any] = field(default_factory=dict)
    density: float = MISSING
    keep: dict[str, Any] = MISSING  # fractions by layer, nested where a name has dots
    policy: str | None = MISSING
    rounds: int = MISSING
    conv_bits: int = MISSING
    linear_bits: int = MISSING
    start: str = MISSING
    recipe: Any = field(default_factory=RecipeConfig)
    sharing: Any = field(default_factory=RecipeConfig)
    device: str = MISSING
    output: str = MISSING


@dataclass
class PoliciesConfig(NetworkConfig, ContendersConfig):
    """Everything that `experiments.policies` reads."""

    compressor: Any = field(default_factory=CompressorConfig)
    resource: str = MISSING
    latency: str | None = None
    early: int | None = MISSING
    stages: list[float] = MISSING
    confirm: int = MISSING
    reward_images: int | None = MISSING
    device: str = MISSING
    recipe: Any = field(default_factory=RecipeConfig)


@dataclass
class PhotosConfig(NetworkConfig, ContendersConfig):
    """Everything that `experiments.photos` reads."""

    compressor: Any = field(default_factory=CompressorConfig)
    resource: str = MISSING
    latency: str | None = None
    one_shot: list[str] = MISSING
    confirm: int = MISSING
    reward_images: int | None = MISSING
    device: str = MISSING


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
class TabulateConfig:
    """Everything that `experiments.tabulate` reads."""

    table: str = MISSING


@dataclass
class ReproduceConfig:
    """Everything that `experiments.reproduce` reads."""

    table: str = MISSING
    rows: list[str] = field(default_factory=list)
    seeds: list[int] | None = None
    episodes: int | None = None
    epochs: int | None = None
    images: str | None = None
    launcher: str = MISSING
    output: str = MISSING


@dataclass
class DashboardConfig:
    """Everything that `experiments.dashboard` reads."""

    entity: str | None = None
    project: str = MISSING
    push: bool = MISSING
    sync: str | None = None


@dataclass
class ReportConfig:
    """Everything that `experiments.report` reads."""

    runs: str | None = None
    output: str = MISSING
    keep: str | None = None
    name: str | None = None


@dataclass
class FetchConfig:
    """Everything that `experiments.fetch` reads."""

    data: DataConfig = field(default_factory=DataConfig)
