"""The table and the curves of searches of one network, by hand."""

from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import policies


def record(agent, top1, seed=0, target=0.3, rewards=(-0.4, -0.2, -0.3), elapsed=(1.0, 2.0, 3.0)):
    return {
        "agent": agent,
        "target": target,
        "episodes": len(rewards),
        "best": {"selection": {"top1": top1}},
        "seeds": {"search": seed},
        "rewards": list(rewards),
        "elapsed": list(elapsed),
    }


RECORDS = [
    record("uniform", 0.5, rewards=(-0.5,), elapsed=(1.0,)),
    record("ddpg", 0.6, seed=0),
    record("ddpg", 0.8, seed=1, rewards=(-0.3, -0.3, -0.1), elapsed=(2.0, 4.0, 8.0)),
    record("random", 0.55, seed=1),
    record("random", 0.65, seed=0),
    record("ddpg", 0.9, seed=0, target=0.5),
]


def rows():
    lines = policies.table(RECORDS).splitlines()
    return lines[0], {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines[2:]
    }


def test_the_table():
    head, found = rows()
    assert head.startswith("| agent | evaluations | seeds | 50 % of the MACs | below `ddpg` by |")
    assert list(found) == ["`uniform`", "`random`", "`ddpg`"]
    assert found["`ddpg`"][:6] == ["3", "2", "90.00", "", "", "70.00 [60.00, 80.00]"]


def test_ours_is_compared_seed_by_seed_and_with_a_policy_that_has_none():
    _, found = rows()
    assert found["`uniform`"][2:5] == ["", "", ""]
    assert found["`uniform`"][5:] == ["50.00", "+20.00 [10.00, 30.00]", "1.00"]
    below, better = found["`random`"][6:]
    assert below.startswith("+10.00")  # of seeds 0 and 1: -5 and 25
    assert better == "0.75"  # 60 and 80 against 65 and 55


def test_the_best_so_far_against_evaluations_and_seconds():
    both = [r for r in RECORDS if (r["agent"], r["target"]) == ("ddpg", 0.3)]
    np.testing.assert_allclose(policies.best_so_far(both), [[-0.4, -0.2, -0.2], [-0.3, -0.3, -0.1]])
    at, middle, *_ = policies.by_evaluation(both)
    np.testing.assert_allclose(middle, [-0.35, -0.25, -0.15])
    assert at.tolist() == [1, 2, 3]
    seconds, middle, low, high = policies.by_second(both, points=3)
    assert seconds == pytest.approx([2, np.sqrt(6), 3])  # the second starts at 2, the first ends at 3
    np.testing.assert_allclose(middle, [-0.25, -0.25, -0.25])  # -0.2 and -0.3
    assert ((low <= middle) & (middle <= high)).all()


def test_the_plot_is_drawn(tmp_path: Path):
    path = policies.plot(RECORDS, tmp_path / "curves.png", names=("uniform", "ddpg", "absent"))
    assert path.read_bytes().startswith(b"\x89PNG")
