"""The configuration that the record of a run holds."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.cli.config import complete
from experiments.recording import plans


def of_record(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """The complete configuration, and the hash of the plan that a run takes from a search.

    The path of a search that is fine-tuned is the one from the run's folder, the same however it is spelled.

    Args:
        cfg: of the command.
        folder: of the run.

    Raises:
        RecordError, PlanError: for a search that has not ended, or is damaged.
    """
    settings = complete(cfg)
    run, policy = settings.get("run"), settings.get("policy")
    if (search := run or policy) is not None:
        settings["plan"] = plans.of_run(Path(search)).hash
    if run is not None:
        settings["run"] = os.path.relpath(Path(run).resolve(), folder.resolve())
    return settings
