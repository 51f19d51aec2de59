"""Tuning: resume of a killed one, and refusal of tables that results are reported on."""

import importlib
import shlex
import sys
from types import SimpleNamespace

import pytest
from clockless import without_clock
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from amc_env import tabular
from experiments import tune as command
from experiments.cli import preflight
from experiments.cli.config import CONF, ConfigError
from experiments.recording.record import RECORD, RecordError, RunRecord

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'amc-rl[optuna]'")
compare = importlib.import_module("experiments.searching.compare")
contest = importlib.import_module("experiments.searching.contest")
tune = importlib.import_module("experiments.searching.tune")
SPACE = {
    "agent": "cmaes",
    "agent.sigma": "tag(log, interval(0.01, 1))",
    "agent.population": "choice(0, 4, 8)",
    "env.beta": "interval(0.3, 1.5)",
}


@pytest.fixture(autouse=True)
def _hydra(composed):
    """Trials are composed as the entry point does it, under an initialised Hydra."""


def config(**changes):
    settings = {"space": SPACE, "table": "digits", "targets": [0.5, 0.3], "seeds": 2, "episodes": 12}
    return OmegaConf.create({**settings, "trials": 13, "seed": 0, "output": "runs/x", **changes})


def best_of(rows):
    best = min(rows, key=lambda row: row["regret"])
    return {key: best[key] for key in ("trial", "regret", "overrides")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return tune.tune(config(), tmp_path_factory.mktemp("tune"))


def test_the_best_trial_is_the_one_of_least_mean_regret(whole, composed):
    assert [row["trial"] for row in whole.rows] == list(range(14))
    assert (whole.rows[0]["params"], whole.rows[0]["overrides"]) == ({}, ["agent=cmaes"])
    for row in whole.rows:
        every = [regret for target in ("0.5", "0.3") for regret in row["regrets"][target]]
        assert len(every) == 4
        assert min(every) >= 0
        assert row["regret"] == pytest.approx(sum(every) / 4)
    assert whole.content["best"] == best_of(whole.rows)

    tried = composed("config", *whole.rows[13]["overrides"])
    params = whole.rows[13]["params"]
    assert (tried.agent.sigma, tried.env.beta) == (params["agent.sigma"], params["env.beta"])
    assert str(tried.agent.population) == params["agent.population"]


def test_a_trial_follows_from_those_before_it(whole):
    _, space = tune.split(SPACE)
    assert whole.rows[13]["params"] == tune.propose(space, whole.rows[1:13], seed=(0, 13))
    assert whole.rows[13]["params"] != tune.propose(space, [], seed=(0, 13))


def test_a_trial_is_a_contender_of_the_comparison(whole):
    table, row = tabular.load("digits"), whole.rows[5]
    settings = contest.contender("mine", row["overrides"])
    curve = compare.run(settings, table, 0.3, episodes=12, seed=1)["curve"]
    assert row["regrets"]["0.3"][1] == 100 * (table.known_best(0.3)[1].top1 - curve[-1][1])


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_record(whole, tmp_path, monkeypatch):
    add = RunRecord.add

    def die(self, **row):
        add(self, **row)
        if row["trial"] == 11:  # after the sampler's random start
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", die)
    with pytest.raises(KeyboardInterrupt):
        tune.tune(config(), tmp_path)
    monkeypatch.setattr(RunRecord, "add", add)
    again = tune.tune(config(), tmp_path)
    assert again.rows == whole.rows
    assert without_clock(again.content) == without_clock(whole.content)


def test_more_trials_go_on_with_the_same_record_and_other_settings_do_not(whole, tmp_path):
    tune.tune(config(trials=2), tmp_path)
    assert tune.tune(config(trials=4), tmp_path).rows == whole.rows[:5]
    with pytest.raises(RecordError, match=r"another configuration \(seed was 0, is 1\)"):
        tune.tune(config(seed=1), tmp_path)


def test_a_trial_of_another_process_is_left_to_it_until_that_ends(whole, tmp_path):
    record = tune.opened(tmp_path, {}, seeds={})
    for row in whole.rows[:2]:
        record.add(**row)
    with FileLock(tmp_path / ".trial2.lock"):  # not a lock of this process's own
        trial, rows, lock = tune.claimed(tmp_path, 3)
        with lock:
            assert (trial, [row["trial"] for row in rows]) == (3, [1])
            tune.added(tmp_path, whole.rows[3], seconds=1.0)
    trial, rows, lock = tune.claimed(tmp_path, 3)
    with lock:
        assert (trial, [row["trial"] for row in rows]) == (2, [1, 3])
        tune.added(tmp_path, whole.rows[2], seconds=1.0)
    assert tune.claimed(tmp_path, 3) is None
    assert tune.ended(tmp_path, 3).content["best"] == best_of(whole.rows[:4])
    assert not [*tmp_path.glob(".trial*")]


def test_a_trial_that_ends_after_the_others_are_finished_may_be_the_best(whole, tmp_path):
    record, rows = tune.opened(tmp_path, {}, seeds={}), sorted(whole.rows[:3], key=lambda row: -row["regret"])
    for row in rows[:2]:
        record.add(**row)
    assert tune.ended(tmp_path, 1).content["status"] == "finished"
    tune.added(tmp_path, rows[2], seconds=1.0)
    assert RunRecord.read(tmp_path).content["status"] == "running"
    assert tune.ended(tmp_path, 2).content["best"] == best_of(rows)


def test_the_sampler_learns_from_what_was_tried_and_its_seed():
    _, space = tune.split({"a": "interval(0, 1)"})
    rows = [{"params": {"a": a / 20}, "regret": abs(a / 20 - 0.2)} for a in range(21)]
    drawn = [tune.propose(space, rows, seed=(seed, 21))["a"] for seed in range(10)]
    assert len(set(drawn)) == 10
    assert sum(abs(a - 0.2) < 0.15 for a in drawn) >= 8
    assert drawn[3] == tune.propose(space, rows, seed=(3, 21))["a"]


@pytest.mark.parametrize("table", ["fashion", "cifar_plain9"])
def test_a_table_that_is_reported_on_is_refused(table, composed):
    with pytest.raises(ConfigError, match=f"table={table} is what results are reported on; tune on another"):
        preflight.check(composed("tune", f"table={table}"))


def test_without_optuna_it_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, tune.__name__)
    with pytest.raises(ConfigError, match=r"tuning needs Optuna: pip install 'amc-rl\[optuna\]'"):
        importlib.import_module(tune.__name__)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("interval(0.5, 1)", {"low": 0.5, "high": 1.0, "log": False, "step": None}),
        ("tag(log, interval(1e-5, 1e-3))", {"low": 1e-5, "high": 1e-3, "log": True, "step": None}),
        ("range(5, 101, 5)", {"low": 5, "high": 100, "log": False, "step": 5}),
        ("range(3)", {"low": 0, "high": 2, "log": False, "step": 1}),
        ("range(0.5, 3)", {"choices": ("0.5", "1.5", "2.5")}),
        ("choice(64, many)", {"choices": ("64", "many")}),
        ("true,false", {"choices": ("True", "False")}),
    ],
)
def test_what_varies(value, expected):
    fixed, varying = tune.split({"agent": "ddpg", "agent.x": value})
    assert fixed == ["agent=ddpg"]
    assert varying["agent.x"]._asdict() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "nothing in the space varies"),
        ("glob(*)", r"agent.x=glob\(\*\): give choice"),
        ("range(9, 0, -1)", "step"),
        ("tag(log, interval(0, 1))", "low"),
    ],
)
def test_what_cannot_vary(value, message):
    with pytest.raises(ConfigError, match=message):
        tune.split({"agent": "ddpg", "agent.x": value})


@pytest.mark.parametrize("path", sorted((CONF / "space").glob("*.yaml")))
def test_every_space_that_ships_fits_its_agent(path):
    fixed, varying = tune.split(OmegaConf.load(path))
    for seed in range(3):
        params = tune.propose(varying, [], seed=(seed,))
        contest.contender(path.stem, fixed + [f"{key}={value}" for key, value in params.items()])


def test_the_entry_point_prints_the_best_settings_as_the_main_job_takes_them(tmp_path, monkeypatch, capsys):
    words = ["table=digits", "trials=1", "seeds=1", "episodes=1", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["experiments.tune", *words])
    GlobalHydra.instance().clear()
    command.main()
    last = capsys.readouterr().out.splitlines()[-1]
    overrides = RunRecord.read(tmp_path).content["best"]["overrides"]
    assert last == f"python -m experiments.search {shlex.join(overrides)}"
    assert (tmp_path / RECORD).exists()


def test_the_best_settings_are_printed_as_a_shell_takes_them(tmp_path, monkeypatch, capsys):
    best = {"regret": 0.5, "trial": 1, "overrides": ["agent=ddpg_elites", "agent.hidden=[8, 8]"]}
    monkeypatch.setattr(tune, "tune", lambda *_: SimpleNamespace(content={"best": best}))
    monkeypatch.setattr(tune, "in_order", lambda _: [best])
    tune.main(OmegaConf.create(), tmp_path)
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[3:] == best["overrides"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"agent": "ddpg_elites", "agent.batch": "interval(32, 64)"}, "agent.batch is 32.0, expected int"),
        ({"agent": "ddpg_elites", "agent.nothing": "choice(32, 64)"}, "no key 'agent.nothing'"),
        ({"agent": "ddpg_paper", "agent.tau": "choice(0.1, 7.0)"}, "agent.tau is 7.0, it is at most 1"),
        ({"agent": "choice(random, gpp)"}, "gpp"),
    ],
)
def test_a_space_with_settings_that_cannot_be(tmp_path, space, message):
    with pytest.raises(ConfigError, match=message):
        tune.tune(config(space=space), tmp_path)
    assert not (tmp_path / RECORD).exists()
