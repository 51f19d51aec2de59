"""Learners of others on a table: their rows are those of the comparison."""

import pytest

from experiments.analysis import regret
from experiments.examples import foreign
from experiments.recording.record import RunRecord


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "EPISODES", 28)
    monkeypatch.setattr(foreign, "UPDATE", 10)
    monkeypatch.setattr(foreign, "TARGETS", (0.3,))
    foreign.main("fashion_plain5", str(tmp_path), first_seed=1, seeds=2)
    return RunRecord.read(tmp_path)


def test_both_learners_are_recorded_as_any_contender_is(record):
    jobs = [(row["seed"], row["contender"]) for row in record.rows]
    assert jobs == [(seed, name) for seed in (1, 2) for name in ("sb3_ppo", "one_file_ddpg")]
    assert len({str(row["curve"]) for row in record.rows}) == len(jobs)
    for row in record.rows:
        found = [top1 for _, top1 in row["curve"]]
        assert found == sorted(set(found))  # each an improvement
        assert row["curve"][0][0] == 1
        assert row["distinct"] <= row["played"]
        assert row["played"] == 28 or found[-1] == record.content["results"]["known_best"][str(row["target"])]
    runs = regret.runs({"fashion_plain5": record.content | {"rows": record.rows}})
    assert set(runs) == set(foreign.LEARNERS)


def test_a_learner_that_gives_up_is_an_error(monkeypatch):
    monkeypatch.setitem(foreign.LEARNERS, "idle", lambda env, decisions, seed: None)
    with pytest.raises(RuntimeError, match="idle ended after 0 of 400 evaluations"):
        foreign.searched("idle", "fashion_plain5", 0.5, 0)
