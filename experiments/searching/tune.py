"""Tunes the settings of an agent with Optuna, on a table of the tabular benchmark.

A trial is a contender of `experiments.compare`; its mean regret over targets and seeds is minimised.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from numpy.random import SeedSequence
from omegaconf import DictConfig

from amc_env import tabular
from amc_env.tabular import Table
from experiments.cli import config
from experiments.recording.opening import opened
from experiments.recording.progress import Meter
from experiments.recording.record import RunRecord
from experiments.searching.compare import contender, run

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
except ModuleNotFoundError as error:
    raise config.ConfigError("tuning needs Optuna: pip install 'amc-rl[optuna]'") from error

optuna.logging.set_verbosity(optuna.logging.WARNING)


def main(cfg: DictConfig, folder: Path) -> None:
    """Tune, and print the best settings as arguments of the main job."""
    record = tune(cfg, folder)
    best, first = record.content["best"], record.rows[0]
    print(f"regret {first['regret']:.3f} points as it stands, {best['regret']:.3f} in trial {best['trial']}")
    print(f"python -m experiments.search {' '.join(best['overrides'])}")


def tune(cfg: DictConfig, folder: Path) -> RunRecord:
    """Run every trial; resumes a record of the same settings that is unfinished or has fewer trials.

    Row 0 is the agent with its own settings, the others are the trials. A trial's settings depend only on the
    rows before it and its own seed, so that a killed tuning ends like an uninterrupted one.

    Raises:
        ConfigError: for a space in which nothing varies.
    """
    fixed, space = split(cfg.space)
    contender("of trial 0", fixed)  # what cannot be is told before a record is made
    settings = config.plain(cfg)
    del settings["trials"]  # more of them go on with the same record
    record = opened(folder, settings, seeds={"sampler": cfg.seed, "runs": cfg.seeds})
    table = tabular.load(cfg.table)
    done = len(record.rows)
    with record, record.phase("search"), Meter("trials", cfg.trials, done=max(done - 1, 0)) as meter:
        for trial in range(done, cfg.trials + 1):
            params = propose(space, record.rows[1:], seed=(cfg.seed, trial)) if trial else {}
            overrides = fixed + [f"{key}={value}" for key, value in params.items()]
            regrets = measure(contender(f"of trial {trial}", overrides), table, cfg)
            regret = sum(map(sum, regrets.values())) / (len(cfg.targets) * cfg.seeds)
            record.add(trial=trial, params=params, overrides=overrides, regret=regret, regrets=regrets)
            meter.update(trial, best=min(row["regret"] for row in record.rows))
        best = min(record.rows, key=lambda row: row["regret"])
        record.update(best={key: best[key] for key in ("trial", "regret", "overrides")})
    return record


def split(space: Mapping[str, Any]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """A space's fixed settings as overrides, and the distributions of the others by key.

    Raises:
        ConfigError: if no setting varies, or its range is not supported.
    """
    words = [f"{key}={value}" for key, value in space.items()]
    overrides = OverridesParser.create().parse_overrides(words)
    fixed = [word for word, o in zip(words, overrides, strict=True) if not o.is_sweep_override()]
    varying = {o.key_or_group: _distribution(o) for o in overrides if o.is_sweep_override()}
    if not varying:
        raise config.ConfigError("nothing in the space varies; give keys choice(...) or interval(..., ...)")
    return fixed, varying


def propose(
    space: Mapping[str, BaseDistribution],
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: Sequence[int],
) -> dict[str, Any]:
    """The next trial's values by key, by the tree-structured Parzen estimator on ``rows``.

    Source: Bergstra et al., NeurIPS 2011.
    """
    sampler = optuna.samplers.TPESampler(seed=int(SeedSequence(seed).generate_state(1)[0]))
    study = optuna.create_study(sampler=sampler)
    for row in rows:
        done = {"params": row["params"], "distributions": dict(space), "value": row["regret"]}
        study.add_trial(optuna.trial.create_trial(**done))
    return dict(study.ask(dict(space)).params)


def measure(settings: Mapping[str, Any], table: Table, cfg: DictConfig) -> dict[str, list[float]]:
    """Each seed's regret in points by target: the known best accuracy minus that of the best plan found."""
    regrets: dict[str, list[float]] = {str(target): [] for target in cfg.targets}
    for target, seed in itertools.product(cfg.targets, range(cfg.seeds)):
        found = run(settings, table, target, episodes=cfg.episodes, seed=seed)["curve"][-1][1]
        regrets[str(target)].append(100 * (table.known_best(target)[1].top1 - found))
    return regrets


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            assert value.start is not None
            assert value.end is not None
            return FloatDistribution(value.start, value.end, log="log" in value.tags)
        if isinstance(value, RangeSweep) and isinstance(whole := value.range(), range):
            return IntDistribution(whole.start, max(whole), "log" in value.tags, whole.step)
        if isinstance(value, ChoiceSweep | RangeSweep):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, TypeError) as error:
        raise config.ConfigError(f"{override.input_line}: {error}") from error
    raise config.ConfigError(f"{override.input_line}: give choice(...), range(...) or interval(..., ...)")
