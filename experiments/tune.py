"""Settings of an agent by Optuna, on a table of the benchmark: ``python -m experiments.tune``.

A trial is a contender of `experiments.compare`; its objective is its mean regret over targets and seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from experiments.cli import config
from experiments.compare import contender, run
from experiments.recording.record import RECORD, RunRecord

if TYPE_CHECKING:  # it takes a while to import; a misspelt key is told before
    from optuna.distributions import BaseDistribution

REPORTED = ("fashion",)  # tables that results are reported on


@config.main("tune")
def main(cfg: DictConfig, folder: Path) -> None:
    """Tune, and print the best settings as the main job takes them."""
    record = tune(cfg, folder)
    best, first = record.content["best"], record.rows[0]
    print(f"regret {first['regret']:.3f} points as it stands, {best['regret']:.3f} in trial {best['trial']}")
    print(f"python -m experiments.search {' '.join(best['overrides'])}")


def tune(cfg: DictConfig, folder: Path) -> RunRecord:
    """Every trial; goes on with an unfinished record, or one of fewer trials, of the same settings.

    Row 0 is the agent as it stands, the rows after it are the trials. What a trial tries follows from the
    rows before it and a seed of its own, so that a killed tuning ends as one that was not.

    Raises:
        ConfigError: for a table that is reported on, a space without anything to tune, or without Optuna.
    """
    if cfg.table in REPORTED:
        raise config.ConfigError(
            f"table={cfg.table} is what results are reported on; tune on another, as table=digits"
        )
    optuna = _optuna()
    fixed, space = split(cfg.space)
    settings = config.plain(cfg)
    del settings["trials"]  # more of them go on with the same record
    if (folder / RECORD).exists():
        record = RunRecord.resume(folder, settings, episodes=len(RunRecord.read(folder).rows))
    else:
        record = RunRecord.create(folder, settings, seeds={"sampler": cfg.seed, "runs": cfg.seeds})

    from amc_env import tabular
    from experiments.recording.progress import Meter

    table = tabular.load(cfg.table)
    done = len(record.rows)
    with record, record.phase("search"), Meter("trials", cfg.trials, done=max(done - 1, 0)) as meter:
        for trial in range(done, cfg.trials + 1):
            params = propose(optuna, space, record.rows[1:], seed=(cfg.seed, trial)) if trial else {}
            overrides = fixed + [f"{key}={value}" for key, value in params.items()]
            regrets = measure(contender(f"of trial {trial}", overrides), table, cfg)
            regret = sum(map(sum, regrets.values())) / (len(cfg.targets) * cfg.seeds)
            record.add(trial=trial, params=params, overrides=overrides, regret=regret, regrets=regrets)
            meter.update(trial, best=min(row["regret"] for row in record.rows))
        best = min(record.rows, key=lambda row: row["regret"])
        record.update(best={key: best[key] for key in ("trial", "regret", "overrides")})
    return record


def split(space: Mapping[str, Any]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """What stays, as overrides, and what varies, by key, of a space.

    Raises:
        ConfigError: when nothing varies, or in a way that has no distribution.
    """
    words = [f"{key}={value}" for key, value in space.items()]
    overrides = OverridesParser.create().parse_overrides(words)
    fixed = [word for word, o in zip(words, overrides, strict=True) if not o.is_sweep_override()]
    varying = {o.key_or_group: _distribution(o) for o in overrides if o.is_sweep_override()}
    if not varying:
        raise config.ConfigError("nothing in the space varies; give keys choice(...) or interval(..., ...)")
    return fixed, varying


def propose(
    optuna: ModuleType,
    space: Mapping[str, BaseDistribution],
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: Sequence[int],
) -> dict[str, Any]:
    """The next trial's values by key, after those in ``rows``, by the tree-structured Parzen estimator.

    Source: Bergstra et al., NeurIPS 2011.
    """
    from numpy.random import SeedSequence

    sampler = optuna.samplers.TPESampler(seed=int(SeedSequence(seed).generate_state(1)[0]))
    study = optuna.create_study(sampler=sampler)
    for row in rows:
        done = {"params": row["params"], "distributions": dict(space), "value": row["regret"]}
        study.add_trial(optuna.trial.create_trial(**done))
    return dict(study.ask(dict(space)).params)


def measure(settings: Mapping[str, Any], table: Any, cfg: DictConfig) -> dict[str, list[float]]:
    """By target, each seed's regret in points: the known best accuracy minus that of the plan found."""
    regrets: dict[str, list[float]] = {str(target): [] for target in cfg.targets}
    for target, seed in itertools.product(cfg.targets, range(cfg.seeds)):
        found = run(settings, table, target, episodes=cfg.episodes, seed=seed)["curve"][-1][1]
        regrets[str(target)].append(100 * (table.known_best(target)[1].top1 - found))
    return regrets


def _distribution(override: Override) -> BaseDistribution:
    from optuna import distributions as kinds

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            assert value.start is not None
            assert value.end is not None
            return kinds.FloatDistribution(value.start, value.end, log="log" in value.tags)
        if isinstance(value, RangeSweep) and isinstance(whole := value.range(), range):
            return kinds.IntDistribution(whole.start, max(whole), "log" in value.tags, whole.step)
        if isinstance(value, ChoiceSweep | RangeSweep):
            return kinds.CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, TypeError) as error:
        raise config.ConfigError(f"{override.input_line}: {error}") from error
    raise config.ConfigError(f"{override.input_line}: give choice(...), range(...) or interval(..., ...)")


def _optuna() -> ModuleType:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise config.ConfigError("tuning needs Optuna: pip install 'amc-rl[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


if __name__ == "__main__":
    main()
