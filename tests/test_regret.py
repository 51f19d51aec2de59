"""Regret by hand: curves of two targets and two seeds, their table and their plot."""

import numpy as np
import pytest

from experiments.analysis import regret


@pytest.fixture
def record():
    """``mine`` finds the best of target 0.5 at its second and third evaluation, ``ddpg_elites`` at once."""
    curves = {
        ("mine", 0.5, 0): [[1, 0.80], [2, 0.90]],
        ("mine", 0.5, 1): [[1, 0.70], [3, 0.90]],
        ("mine", 0.3, 0): [[1, 0.60]],
        ("mine", 0.3, 1): [[1, 0.60], [4, 0.62]],
        ("ddpg_elites", 0.5, 0): [[1, 0.90]],
        ("ddpg_elites", 0.5, 1): [[1, 0.90]],
        ("ddpg_elites", 0.3, 0): [[1, 0.65]],
        ("ddpg_elites", 0.3, 1): [[1, 0.65]],
    }
    rows = [
        {"contender": name, "target": target, "seed": seed, "curve": curve, "distinct": 4}
        for (name, target, seed), curve in curves.items()
    ]
    config = {"contenders": {"mine": {}, "ddpg_elites": {}}, "targets": [0.5, 0.3], "seeds": 2, "episodes": 4}
    return {"config": config, "results": {"known_best": {"0.5": 0.90, "0.3": 0.65}}, "rows": rows}


def test_the_regret_after_each_evaluation(record):
    found = regret.regrets(record)
    assert found["mine"] == pytest.approx(
        np.array([[[10, 0, 0, 0], [20, 20, 0, 0]], [[5, 5, 5, 5], [5, 5, 5, 3]]])
    )
    assert found["ddpg_elites"] == pytest.approx(np.zeros((2, 2, 4)))


def test_evaluations_until_near(record):
    needed = regret.evaluations(regret.regrets(record)["mine"])
    assert needed.tolist() == [[2, 3], [np.inf, np.inf]]
    assert regret.evaluations(np.array([0.3, 0.1])) == 2  # 0.1 point is near enough


def test_the_table(record):
    head, _, worst, best = regret.table(record).splitlines()
    assert head.startswith("| agent | 50 % of the MACs | 30 % of the MACs | both | within 0.1 point |")
    cells = [cell.strip() for cell in worst.strip("|").split("|")]
    assert cells[:3] == ["mine", "0.00 [0.00, 0.00]", "4.00 [3.00, 5.00]"]
    assert cells[4:6] == ["50%", "-"]
    assert cells[-1] == "0.75"  # a tie at 50 %, better in every pair at 30 %
    assert next(cell.strip() for cell in best.strip("|").split("|")) == "ddpg_elites"


def test_the_table_by_evaluations(record):
    head, _, worst, best = regret.by_evaluations(record, at=(1, 4)).splitlines()
    assert head == "| agent | 1 | 4 | within 0.1 point |"
    assert worst.startswith("| `mine` | 10.00 [")  # of 10, 20, 5 and 5
    assert "| 2.00 [" in worst  # of 0, 0, 5 and 3
    assert worst.endswith("| 50% |")
    assert best == "| `ddpg_elites` | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] | 100% |"


def test_the_table_of_one_target_has_no_column_for_both(record):
    record["config"]["targets"] = [0.5]
    record["rows"] = [row for row in record["rows"] if row["target"] == 0.5]
    assert "both" not in regret.table(record)


def test_a_run_that_is_missing_is_seen(record):
    del record["rows"][0]
    assert np.isnan(regret.regrets(record)["mine"][0, 0]).all()


def test_the_plot_is_drawn(record, tmp_path):
    path = regret.plot(record, tmp_path / "regret.png", names=("mine", "ddpg_elites", "absent"))
    assert path.read_bytes().startswith(b"\x89PNG")
    at, middle, low, high = regret.band(np.array([[4.0, 2.0, 0.0], [2.0, 2.0, 2.0]]))
    assert at.tolist() == [1, 2, 3]
    assert middle.tolist() == [3, 2, 1]
    assert ((low <= middle) & (middle <= high)).all()
