"""Limits of settings that only a command reads: the lowest and the highest value, or the choices."""

from collections.abc import Sequence
from typing import Any

from experiments.cli.signatures import ROOT, choices

MODELS = choices("amc_env.zoo", "MODELS")
RESOURCES = (*choices("amc_env.cost", "RESOURCES"), "bits", "latency")
TARGET = choices("amc_env.budget", "TARGET")
TABLES = choices("experiments.searching.tabulate", "SOURCES")  # those that can be made
LIMITS: dict[str, Sequence[Any]] = {
    "seed": (0, 2**32 - 1),
    "data.seed": (0, 2**32 - 1),
    "data.name": tuple(sorted(file.stem for file in (ROOT / "conf/data").glob("*.yaml"))),
    "targets": TARGET,
    "searched": TARGET,
    "episodes": (1, 1_000_000),
    "confirm": (1, 10_000),
    "save_every": (1, 1_000_000),
    "first_seed": (0, 2**32 - 1),
    "early": (1, 1_000_000),
    "seeds": (1, 1_000),
    "trials": (1, 100_000),
    "tunings": (1, 1_000),
    "plans": (1, 100_000),
    "steps": (0, 1_000_000),
    "reward_images": (1, 100_000_000),
    "batches": (1, 100_000),
    "batch": (1, 100_000),
    "threads": (1, 4096),
    "runtime": choices("amc_env.latency", "RUNTIMES"),
    "floor": choices("amc_env.compressors.channels", "FLOOR"),
    "repeats": (1, 1_000_000),
    "warmup": (0, 1_000_000),
    "classes": (1, 1_000_000),
    "shape": (1, 100_000),
    "device": choices("amc_env.execution", "DEVICES"),
    "split": choices("amc_env.data.splits", "SPLITS"),
    "one_shot": choices("experiments.searching.one_shot", "METHODS"),
    "format": choices("experiments.delivery.describe", "FORMATS"),
    "table": (
        *sorted({*TABLES, *(file.stem for file in (ROOT / "amc_env/tables").glob("*.npz"))}),
        "missing",
    ),
}
UNTAUGHT: dict[str, Sequence[Any]] = {"recipe.distill": (0, 0)}  # these commands have no teacher
OTHERS: dict[str, dict[str, Sequence[Any]]] = {  # where a key means something else in a command
    "FidelityConfig": {"seeds": (0, 1_000), **UNTAUGHT},
    "PretrainConfig": UNTAUGHT,
    "TunedOptimaConfig": UNTAUGHT,
    "ReproduceConfig": {
        "table": (
            "table2",
            "figure2",
            "table3",
            "latency",
            "densities",
            "deep_compression",
            "detection",
        ),  # of experiments/analysis/published.yaml
        "seeds": (0, 2**32 - 1),
        "epochs": (0, 100_000),
        "launcher": ("basic", "local", "slurm", "ray", "cluster"),
    },
    "PhotosConfig": {"resource": ("macs", "params", "latency")},
    "PoliciesConfig": {"resource": ("macs", "params", "bits", "latency"), "stages": TARGET},
    "DeepCompressConfig": {
        "density": (1e-6, 1),
        "rounds": (1, 1_000),
        "conv_bits": (1, 8),
        "linear_bits": (1, 8),
        "start": choices("amc_env.compressors.sharing", "STARTS"),
    },
}
FREE = {("LatencyConfig", "table")}  # keys of commands in which these limits do not hold: there it is a file
OF_FOLDERS = ("imagefolder", "photos")  # data sets in a place of the user's
LISTS = ("targets", "batches", "checkpoint", "models", "seeds")  # whose entries are processed one by one
STEM = (".safetensors", ".json")  # endings of a checkpoint's files


def of(kind: type) -> dict[str, Sequence[Any]]:
    """The limits of a command's own settings, by key."""
    found = LIMITS | OTHERS.get(kind.__name__, {})
    return {key: found[key] for key in found if (kind.__name__, key) not in FREE}
