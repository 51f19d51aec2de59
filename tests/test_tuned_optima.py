"""Plans of a table after fine-tuning: the sample, and its table."""

import numpy as np
import pytest

from amc_env import tabular
from amc_env.compressors import plan_of
from experiments.analysis import optima
from experiments.searching.tuned_optima import drawn


@pytest.fixture(scope="module")
def table():
    return tabular.load("fashion_plain5")


def test_a_third_are_the_best_and_all_are_within_the_budget_and_of_the_upper_half(table):
    found = drawn(table, 0.3, 60)
    share, top1 = (table.columns[name].ravel() for name in ("macs", "top1"))
    within = share <= 0.3 * share.max()
    assert len(set(found.tolist())) == 60
    assert within[found].all()
    assert sorted(top1[found[:20]]) == sorted(np.sort(top1[within])[-20:])
    assert top1[found].min() >= np.median(top1[within])


def test_a_plan_and_its_index(table):
    index = (0, 2, 5, 1, 3)
    plan = plan_of(table.compressor, table.counts(index))
    assert table.index(plan) == index
    assert table(plan).top1 == table.evaluation(index).top1


def test_the_table_by_hand():
    tuned = {0.5: [0.7, 0.72], 0.6: [0.8, 0.82], 0.7: [0.79, 0.81], 0.8: [0.9, 0.9]}
    rows = [
        {"target": 0.3, "plan": at, "reward": reward, "test": test, "best_of": ["gp"] if at == 2 else []}
        for at, (reward, test) in enumerate(tuned.items())
    ]
    text = optima.table(rows)
    assert "4 plans, 2 fine-tunings each: test accuracy after them from 71.00 to 90.00 %" in text
    assert "fine-tuned accuracy: 0.80 [" in text  # the middle two are exchanged
    assert text.splitlines()[-1] == "| `gp` | 1 | 70.00 | 80.00 | 10.00 |"
    assert "too few" in optima.table(rows[:2])
