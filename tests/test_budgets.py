"""One search for all budgets beside a search for each: what is read off, the record and the table."""

import pytest
from omegaconf import OmegaConf
from rewriting import cut_short

from amc_env import tabular
from experiments.analysis import regret
from experiments.cli.config import ConfigError
from experiments.recording.record import without_clock
from experiments.searching import budgets
from experiments.searching.budgets import Found

pytestmark = pytest.mark.usefixtures("hydra")
TARGETS = [0.3, 0.8]


@pytest.fixture
def hydra(composed):
    """Contenders are composed as the entry point does it, under an initialised Hydra."""


def config(**changes):
    contenders = {
        "random": ["agent=random"],
        "ours": ["experiment=many_targets", "agent.hidden=8", "agent.learn_after=5"],
    }
    settings = {"contenders": contenders, "table": "digits", "targets": TARGETS, "seeds": 2}
    return OmegaConf.create({**settings, "episodes": 20, "output": "runs/x", **changes})


@pytest.fixture(scope="module")
def table():
    return tabular.load("digits")


def test_a_plan_counts_for_every_budget_that_it_is_within(table):
    dense = int(table.columns["macs"].max())
    plans = [
        Found(0.8, int(0.75 * dense), -0.30, 0.70),
        Found(0.8, int(0.25 * dense), -0.20, 0.80),  # cheap, though it was allowed more
        Found(0.3, int(0.29 * dense), -0.40, 0.60),
    ]
    assert budgets.read_off(plans, table, [0.3, 0.8, 0.2]) == [0.80, 0.80, None]
    assert budgets.read_off(plans[:1], table, [0.3, 0.8]) == [None, 0.70]


def test_all_are_given_as_many_evaluations_and_no_more_than_the_best_is_found(tmp_path, table, monkeypatch):
    played = []
    evaluate = tabular.Table.evaluation
    monkeypatch.setattr(tabular.Table, "evaluation", lambda *args: played.append(0) or evaluate(*args))
    record = budgets.budgets(config(), tmp_path)
    assert len(played) == 2 * 2 * 20 + len(TARGETS)  # the known best of each target
    keys = [(row["seed"], row["contender"]) for row in record.rows]
    assert keys == [(0, "random"), (0, "ours"), (1, "random"), (1, "ours")]
    assert record.content["results"]["searches"] == {"random": 2, "ours": 1}
    known = [record.content["results"]["known_best"][str(target)] for target in TARGETS]
    for row in record.rows:
        assert row["top1"] == sorted(row["top1"])
        for own, found, best in zip(row["own"], row["top1"], known, strict=True):
            assert own <= found <= best
    assert record.rows[0]["top1"] != record.rows[2]["top1"]
    assert regret.budgets_table(record.content | {"rows": record.rows}).count("\n") == 3


def test_killed_and_started_again_it_ends_with_the_same_record(tmp_path):
    whole = budgets.budgets(config(), tmp_path / "whole")
    budgets.budgets(config(), tmp_path / "killed")
    cut_short(tmp_path / "killed", 2)
    again = budgets.budgets(config(), tmp_path / "killed")
    assert again.rows == whole.rows
    assert without_clock(again.content) == without_clock(whole.content)


def test_evaluations_that_cannot_be_shared_out_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="episodes=21 are not the same for 2 targets"):
        budgets.budgets(config(episodes=21), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_table_by_hand():
    """``one`` is 1 and 3 points below the best with its two seeds, ``each`` is on it but has no own plan."""
    rows = [
        {"contender": "one", "seed": 0, "top1": [0.59, 0.89], "own": [0.59, 0.88]},
        {"contender": "one", "seed": 1, "top1": [0.57, 0.87], "own": [0.57, 0.86]},
        {"contender": "each", "seed": 0, "top1": [0.60, 0.90], "own": [None, 0.90]},
        {"contender": "each", "seed": 1, "top1": [0.60, 0.90], "own": [None, 0.90]},
    ]
    settings = {"contenders": {"each": {}, "one": {"targets": [0.1]}}, "targets": [0.3, 0.8], "episodes": 10}
    record = {"config": settings, "results": {"known_best": {"0.3": 0.6, "0.8": 0.9}}, "rows": rows}
    head, _, one, each = regret.budgets_table(record).splitlines()
    assert head.endswith("| 30 % of the MACs | 80 % of the MACs |")
    assert one.startswith("| one | 1 x 10 | 2.00 [1.00, 3.00] | 2.50 [1.50, 3.50] | 2.00 [")
    assert each.startswith("| each | 2 x 5 | 0.00 [0.00, 0.00] | - | 0.00 [")
