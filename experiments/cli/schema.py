"""Makes the configurations of all commands known to Hydra, as schemas."""

from dataclasses import fields, is_dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from experiments.cli import commands
from experiments.cli.groups import OPEN

SCHEMAS = {
    "search": commands.SearchConfig,
    "pretrain": commands.PretrainConfig,
    "finetune": commands.FinetuneConfig,
    "evaluate": commands.EvaluateConfig,
    "latency": commands.LatencyConfig,
    "describe": commands.DescribeConfig,
    "survey": commands.SurveyConfig,
    "compare": commands.CompareConfig,
    "tuned_optima": commands.TunedOptimaConfig,
    "fidelity": commands.FidelityConfig,
    "pretrain_agent": commands.PretrainAgentConfig,
    "deep_compress": commands.DeepCompressConfig,
    "policies": commands.PoliciesConfig,
    "photos": commands.PhotosConfig,
    "tune": commands.TuneConfig,
    "tabulate": commands.TabulateConfig,
    "report": commands.ReportConfig,
    "dashboard": commands.DashboardConfig,
    "reproduce": commands.ReproduceConfig,
    "fetch": commands.FetchConfig,
}


def keys(kind: type) -> list[str]:
    """The keys of a command's configuration; none for a class that is no schema."""
    return [one.name for one in fields(kind)] if is_dataclass(kind) else []


def register() -> None:
    """Make the schemas known to Hydra; the files in ``conf/`` name theirs first in their defaults.

    The `OPEN` groups accept any key here, such as ``agent.tau=0.02``; `experiments.cli.config.check_settings`
    checks them against the class that the group names.
    """
    setattr(ConfigStore, "__deepcopy__", _shared)  # noqa: B010 - no attribute that is declared
    for name, kind in SCHEMAS.items():
        node = OmegaConf.structured(kind)
        for group in OPEN:
            if group in node:
                OmegaConf.set_struct(node[group], False)
        ConfigStore.instance().store(name=f"{name}_schema", node=node)


def _shared(store: ConfigStore, memo: object) -> ConfigStore:
    """Return the store itself instead of a copy.

    Hydra copies it with all its nodes whenever it asks for the choices of a group, a hundred times for one
    ``--help``, and copies each node again as it is read: what is stored stays as it is.
    """
    return store
