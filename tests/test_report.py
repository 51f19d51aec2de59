"""Tables are made from records alone."""

import json
import re
from pathlib import Path

import pytest

from experiments.analysis import markdown, report
from experiments.analysis.report import (
    BENCHMARKS_PAGE,
    README,
    RESULTS_PAGE,
    ReportError,
    filled,
    keep,
    pages,
    place,
    recorded,
)
from experiments.recording.record import RunRecord


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    assert place("a <!-- t --> old <!-- /t --> b", "t", "new") == "a <!-- t -->\nnew\n<!-- /t --> b"
    with pytest.raises(ReportError, match="once each"):
        place("a <!-- t --> b", "t", "new")


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"contenders": {}, "targets": [0.5]}, "regret/mine.json"),
        ({"sharing": {}, "model": {"checkpoint": "a/b"}}, "deep_compression/mine.json"),
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
    if "sharing" in config:
        assert content["config"]["model"]["checkpoint"] == "b"  # no path of this machine
        return
    assert content["config"] == config
    if "contenders" in config:
        assert content["rows"] == record.rows
    else:
        assert content["rewards"] == [-0.25, -0.25]
        assert content["elapsed"] == [0.5, 0.75]


def test_the_pages_hold_what_the_records_say() -> None:
    for page, blocks in pages().items():
        text = page.read_text()
        assert filled(text, blocks) == text, f"{page.name}: run `make report`"


def test_the_front_page_is_a_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"<!-- \w+ -->", text)) <= 1


def test_links_lead_to_files_of_the_repository() -> None:
    for page in (README, RESULTS_PAGE, BENCHMARKS_PAGE, README.parent / "amc_env/DEVIATIONS.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_commits_are_named_once_whichever_key_holds_them() -> None:
    records = {"a": {"commit": "b" * 40 + "-dirty"}, "c": {"commit": "d" * 40, "commits": {"x": "b" * 40}}}
    assert recorded(records) == f"Recorded at `{'b' * 9}`."


def test_a_table_for_a_page_and_one_for_a_terminal() -> None:
    assert markdown.table(["a", "b"], [["1", "22"]]) == "| a | b |\n|-|-|\n| 1 | 22 |"
    assert markdown.aligned(["a", "long"], [["1", "2"], ["333", ""]], right=["a"]) == (
        "|   a | long |\n| --: | ---- |\n|   1 | 2    |\n| 333 |      |"
    )
