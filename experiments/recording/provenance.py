"""Which code made a record: versions of packages, and the commit."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSIONS = (
    "torch",
    "torchvision",
    "numpy",
    "gymnasium",
    "stable-baselines3",
    "hydra-core",
    "wandb",
    "onnxruntime",
)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of the code that runs, with ``-dirty`` where tracked files differ; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
