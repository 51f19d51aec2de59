"""Tables are made from records alone."""

import json
from pathlib import Path

import pytest

from experiments.analysis import report
from experiments.analysis.report import README, ReportError, blocks, keep, place
from experiments.recording.record import RunRecord


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
        for seconds in (0.5, 0.25):
            record.add(reward=-0.25, episode_seconds=seconds)
    path = keep(tmp_path / "run", "mine")
    assert path == tmp_path / "results" / kept
    content = json.loads(path.read_text())
    assert content["config"] == config
    if "contenders" in config:
        assert content["rows"] == record.rows
    else:
        assert content["rewards"] == [-0.25, -0.25]
        assert content["elapsed"] == [0.5, 0.75]


def test_the_readme_holds_what_the_records_say() -> None:
    text = README.read_text()
    for name, block in blocks().items():
        assert place(text, name, block) == text, "run `make report`"
