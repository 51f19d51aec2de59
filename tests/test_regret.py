"""Regret of two tables and two seeds, against hand-computed values, with tables and plot."""

import numpy as np
import pytest

from experiments.analysis import regret


def record(rows):
    """Targets of known best 0.90 and 0.65; rows are (agent, target, seed, curve)."""
    made = [
        {"contender": name, "target": target, "seed": seed, "curve": curve}
        for name, target, seed, curve in rows
    ]
    return {"config": {"episodes": 4}, "results": {"known_best": {"0.5": 0.90, "0.3": 0.65}}, "rows": made}


@pytest.fixture
def records():
    """``mine`` finds the best of one task at its second and third evaluation, ``gp`` all at once."""
    first = [
        ("mine", 0.5, 0, [[1, 0.80], [2, 0.90]]),
        ("mine", 0.5, 1, [[1, 0.70], [3, 0.90]]),
        ("mine", 0.3, 0, [[1, 0.60]]),
        ("mine", 0.3, 1, [[1, 0.60], [4, 0.62]]),
        ("rule", 0.5, 0, [[1, 0.85]]),
        *(("gp", target, seed, [[1, top1]]) for target, top1 in ((0.5, 0.9), (0.3, 0.65)) for seed in (0, 1)),
    ]
    second = [("mine", 0.5, 0, [[1, 0.89]]), ("gp", 0.5, 0, [[1, 0.88]])]
    return {"a": record(first), "b": record(second)}


def test_the_regret_after_each_evaluation(records):
    found = regret.runs(records)["mine"]
    np.testing.assert_allclose(found["a", 0.5][0], [10, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found["a", 0.3][1], [5, 5, 5, 3])
    assert {task: len(seeds) for task, seeds in found.items()} == {
        ("a", 0.5): 2,
        ("a", 0.3): 2,
        ("b", 0.5): 1,
    }


def test_evaluations_until_near():
    assert regret.evaluations(np.array([10.0, 0.3, 0.1])) == 3  # 0.1 point is near enough
    assert regret.evaluations(np.array([5.0, 5.0])) == np.inf


def test_tables_weigh_alike_and_their_number_makes_the_interval():
    one = regret.pooled(
        {("a", 0.5): np.array([1.0, 3.0]), ("a", 0.3): np.array([6.0]), ("b", 0.5): np.zeros(9)}
    )
    assert one.value == pytest.approx(2.0)  # of a 4, of b 0
    assert one.low == pytest.approx(0.0)  # a resample may draw b twice
    assert one.high >= 3.5  # or a
    level = regret.pooled({("a", 0.5): np.ones(3), ("b", 0.5): np.ones(2)})
    assert tuple(level) == (1, 1, 1)


def test_differences_are_paired_and_a_rules_run_stands_against_every_seed(records):
    every = regret.runs(records)
    found = regret.differences(every["mine"], every["gp"], 4)
    np.testing.assert_allclose(found["a", 0.3], [5, 3])
    np.testing.assert_allclose(found["b", 0.5], [-1])
    np.testing.assert_allclose(regret.differences(every["rule"], every["gp"], 1)["a", 0.5], [5, 5])
    learner = {("a", 0.5): {0: every["mine"]["a", 0.5][0]}}  # of one seed: it stands against that seed alone
    np.testing.assert_allclose(regret.differences(learner, every["gp"], 1)["a", 0.5], [10])


def test_the_table(records):
    head, _, *lines = regret.table(records, counts=(1, 4)).splitlines()
    assert (
        head == "| agent | tables | seeds | 1 | 4 | runs within 0.1 point | median evaluations to 0.1 point |"
    )
    assert [line.split("|")[1].strip() for line in lines] == ["`rule`", "`mine`", "`gp`"]
    assert lines[1].startswith("| `mine` | 2 | 1 to 2 | 5.50 [")  # of a 10, of b 1
    assert "| 1.50 [" in lines[1]  # of 0, 0, 5 and 3 the mean, and 1
    assert lines[1].endswith("| 40% | - |")


def test_the_tables_against_one_and_by_table(records):
    text = regret.against(records, "gp", counts=(1,)).splitlines()
    assert text[0] == "| worse than `gp` by, after | 1 |"
    assert text[2].startswith("| `rule` | +5.00 [")
    assert text[3].startswith("| `mine` | +4.50 [")  # of a 10, of b -1
    assert len(regret.against(records, "gp", ["mine"], counts=(1,)).splitlines()) == 3
    assert regret.against(records, "nobody") == ""
    lines = regret.by_table(records, 4).splitlines()
    assert lines[0] == "| after 4 | `rule` | `mine` | `gp` |"
    assert lines[3] == "| `b` |  | 1.00 | 2.00 |"


def test_the_plot_is_drawn(records, tmp_path):
    path = regret.plot(records, tmp_path / "regret.png", names=("mine", "gp", "absent"))
    assert path.read_bytes().startswith(b"\x89PNG")
