"""Plugins of Hydra, which it finds only in a package of the name ``hydra_plugins``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ResumableSweeper(Sweeper):
    """Runs every combination of the given values, in folders that the same command finds again.

    Finished runs are not launched. A run that fails takes no other with it.

    Args:
        params: further overrides, by key; those of the command line win.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's objects and build the launcher."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the unfinished runs of a command line.

        Raises:
            SweepError: at the end, when runs failed.
        """
        from experiments.cli import sweep  # here, because Hydra imports this file for every program

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        loader = self.hydra_context.config_loader
        words = [f"{key}={value}" for key, value in self.params.items()] + arguments
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        runs = [sweep.Run.of(job, loader.load_sweep_config(self.config, job)) for job in jobs]
        sweep.finish(runs, self.launcher)
