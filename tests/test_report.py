"""Tables are made from records alone."""

import json
from pathlib import Path

import pytest

from experiments import report
from experiments.record import RunRecord
from experiments.report import README, ReportError, blocks, keep, place, policies


def record(agent: str, target: float, top1: float, episodes: int = 400) -> dict[str, object]:
    best = {"selection": {"top1": top1}}
    return {"agent": agent, "target": target, "episodes": episodes, "best": best}


def test_mean_and_spread_by_hand() -> None:
    records = [record("uniform", 0.3, 0.5, 1), record("ddpg", 0.3, 0.6), record("ddpg", 0.3, 0.8)]
    lines = policies(records).splitlines()
    assert lines[0] == "| policy | evaluations | seeds | 30 % of the MACs |"
    assert lines[2] == "| uniform | 1 | 1 | 50.00 |"
    assert lines[3] == "| ddpg | 400 | 2 | 70.00 (60.00 to 80.00, sd 14.14) |"


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    assert place("a <!-- t --> old <!-- /t --> b", "t", "new") == "a <!-- t -->\nnew\n<!-- /t --> b"
    with pytest.raises(ReportError, match="once each"):
        place("a <!-- t --> b", "t", "new")


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"contenders": {}, "targets": [0.5]}, "regret/mine.json"),
        ({"protocol": {"target": 0.5}, "episodes": 1}, "policies/mine.json"),
    ],
)
def test_what_is_kept_is_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object], kept: str
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    record = RunRecord.create(tmp_path / "run", config, seeds={"first": 0})
    with pytest.raises(ReportError, match="is running: only a finished run"):
        keep(tmp_path / "run", "mine")
    with record:
        record.update(best={"top1": 0.5}, results={})
        record.add(reward=-0.25, curve=[[1, 0.5], [3, 0.75]])
    path = keep(tmp_path / "run", "mine")
    assert path == tmp_path / "results" / kept
    content = json.loads(path.read_text())
    assert content["config"] == config
    if "contenders" in config:
        assert content["rows"] == [{"reward": -0.25, "curve": [[1, 0.5], [3, 0.75]]}]
    else:
        assert content["rewards"] == [-0.25]


def test_the_readme_holds_what_the_records_say() -> None:
    text = README.read_text()
    for name, block in blocks().items():
        assert place(text, name, block) == text, "run `make report`"
