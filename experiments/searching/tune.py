"""Tunes the settings of an agent with Optuna, on a table of the tabular benchmark.

A trial is a contender of `experiments.compare`; its mean regret over targets and seeds is minimised. The same
command, started several times, shares the trials between its processes.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from numpy.random import SeedSequence
from omegaconf import DictConfig

from amc_env import tabular
from amc_env.tabular import Table, TabularEnv
from experiments.cli import config
from experiments.recording.lock import BusyError, alone
from experiments.recording.opening import opened
from experiments.recording.progress import Meter
from experiments.recording.record import RunRecord
from experiments.searching.compare import run
from experiments.searching.contest import build_all, contender

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

Row = dict[str, Any]


def main(cfg: DictConfig, folder: Path) -> None:
    """Tune, and print the best settings as arguments of the main job."""
    record = tune(cfg, folder)
    best, first = record.content["best"], in_order(record)[0]
    print(f"regret {first['regret']:.3f} points as it stands, {best['regret']:.3f} in trial {best['trial']}")
    print(f"python -m experiments.search {shlex.join(best['overrides'])}")


def tune(cfg: DictConfig, folder: Path) -> RunRecord:
    """Run trials until the record has all; resumes one of the same settings that has fewer.

    Other processes may work on the same record: the folder is locked only while it is read and written, and
    each trial while it runs. Trial 0 is the agent with its own settings. The settings of the others depend
    only on their own seed and on the trials that had ended, so that without other processes a killed tuning
    ends like an uninterrupted one.

    Raises:
        ConfigError: for a space in which nothing varies.
    """
    fixed, space = split(cfg.space)
    table = tabular.load(cfg.table)
    tried = {"0": contender("of trial 0", fixed)}
    for number, values in enumerate(zip_longest(*map(ends, space.values())), 1):
        asked = zip(space, values, strict=True)
        own = [*fixed, *(f"{key}={value}" for key, value in asked if value is not None)]
        tried[str(number)] = contender("of the space", own)
    # A wrong setting is an error before a record is made.
    build_all(tried, cfg.targets, lambda of, target: TabularEnv(table, target=target, **of["env"]))
    settings = config.plain(cfg)
    del settings["trials"]  # more of them go on with the same record
    with alone(folder, wait=True):
        record = opened(folder, settings, seeds={"sampler": cfg.seed, "runs": cfg.seeds})
    done = max(len(record.rows) - 1, 0)
    with end_recorded(folder), Meter("trials", cfg.trials, done=done) as meter:
        while (found := claimed(folder, cfg.trials)) is not None:
            trial, rows, lock = found
            with lock:
                start = time.monotonic()
                params = propose(space, rows, seed=(cfg.seed, trial)) if trial else {}
                overrides = fixed + [f"{key}={value}" for key, value in params.items()]
                regrets = measure(contender(f"of trial {trial}", overrides), table, cfg)
                regret = sum(map(sum, regrets.values())) / (len(cfg.targets) * cfg.seeds)
                row = {"trial": trial, "params": params, "overrides": overrides}
                best = added(folder, row | {"regret": regret, "regrets": regrets}, time.monotonic() - start)
            meter.update(len(rows) + bool(trial), best=best)
    return ended(folder, cfg.trials)


@contextmanager
def end_recorded(folder: Path) -> Iterator[None]:
    """Write into the record that this process was interrupted or failed."""
    try:
        yield
    except BaseException:
        with alone(folder, wait=True), RunRecord.read(folder):
            raise


def claimed(folder: Path, last: int) -> tuple[int, list[Row], ExitStack] | None:
    """The first trial that nobody has run or is running, the rows to learn from, and the trial's lock.

    While others run all that is left it waits, because one that is killed leaves its trial to be run.

    Returns:
        None when the record has every trial up to the last one.
    """
    while True:
        with alone(folder, wait=True):
            rows = in_order(RunRecord.read(folder))
            left = sorted({*range(last + 1)} - {row["trial"] for row in rows})
            for trial in left:
                lock = ExitStack()
                with suppress(BusyError):
                    lock.enter_context(alone(folder, name=f"trial{trial}"))
                    return trial, [row for row in rows if row["trial"]], lock
        if not left:
            return None
        with alone(folder, name=f"trial{left[0]}", wait=True):
            pass


def added(folder: Path, row: Row, seconds: float) -> float:
    """The least regret so far, with one more trial in the record."""
    with alone(folder, wait=True):
        record = RunRecord.read(folder)
        record.update(status="running")  # others may have ended
        record.add(**row)
        spent = record.content["seconds"].get("search", 0.0) + seconds
        record.update(seconds={"search": round(spent, 3)})
    return min(float(row["regret"]) for row in record.rows)


def ended(folder: Path, last: int) -> RunRecord:
    """The finished record, with its best trial; locks of trials are removed."""
    with alone(folder, wait=True):
        record = RunRecord.read(folder)
        if record.content["status"] != "finished":
            best = min(in_order(record), key=lambda row: row["regret"])
            record.update(best={key: best[key] for key in ("trial", "regret", "overrides")})
            record.finish()
        for trial in range(last + 1):
            (folder / f".trial{trial}.lock").unlink(missing_ok=True)
    return record


def in_order(record: RunRecord) -> list[Row]:
    """The rows by trial; those of several processes are in the file as they ended."""
    return sorted(record.rows, key=lambda row: int(row["trial"]))


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


def ends(distribution: BaseDistribution) -> Sequence[Any]:
    """Every choice, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


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
