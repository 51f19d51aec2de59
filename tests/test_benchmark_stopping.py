"""The searches with and without stopping and memory: what is counted, by hand and on a small network."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from amc_env.data.splits import CACHE
from experiments.benchmarks import stopping
from experiments.benchmarks.__main__ import record, write
from experiments.benchmarks.stopping import Ablation, ablate, cache, summary
from experiments.benchmarks.subjects import BenchmarkError
from experiments.benchmarks.tables import table
from experiments.cli.config import CONF
from experiments.recording.record import RunRecord

SMALL = Ablation(
    protocols=("flops_30",), seeds=1, block=50, rank=2, leaders=12,
    overrides=("experiment=digits", "agent=cmaes", "episodes=40", "env.reward_images=200", "confirm=2"),
)  # fmt: skip


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    folder = tmp_path_factory.mktemp("ablation")
    return ablate(SMALL, folder, say=silent), folder


def test_the_counts_are_those_of_the_searches(found):
    (row,) = found[0]["rows"]
    plain, stopped, again = (row[side] for side in ("plain", "stopping", "again"))
    records = {side: RunRecord.read(found[1] / f"flops_30-0-{side}") for side in ("plain", "stopping")}
    for side, facts in (("plain", plain), ("stopping", stopped)):
        images = [line["n_images"] for line in records[side].rows]
        assert facts["images"] == sum(images)
        assert facts["episodes"] == len(images) == 40
        assert facts["forwards"] <= facts["images"]
        assert facts["best_images"] == 200
    distinct = {tuple(line["counts"]) for line in records["plain"].rows}
    assert plain["images"] == 40 * 200
    assert plain["forwards"] == 200 * len(distinct)
    assert plain["evaluations"] == len(distinct)
    assert stopped["images"] < plain["images"]
    assert (again["forwards"], again["evaluations"]) == (0, 0)
    for name in ("reward", "selection", "images", "best_images"):
        assert again[name] == stopped[name]


def test_the_rule_that_is_measured_is_the_default():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
    default = cfg.env.block, cfg.env.confidence, cfg.env.rank, cfg.leaders
    rule = Ablation()
    assert (rule.block, rule.confidence, rule.rank, rule.leaders) == default


def test_finished_searches_are_read_and_those_of_other_code_refused(found, monkeypatch):
    assert ablate(SMALL, found[1], say=silent) == found[0]
    monkeypatch.setattr(stopping, "commit", lambda: "another")
    with pytest.raises(BenchmarkError, match=r"flops_30-0-plain is of .*: delete it"):
        ablate(SMALL, found[1], say=silent)


def test_a_memo_that_changes_what_is_found_is_told(found, tmp_path, monkeypatch):
    search = stopping.searched

    def wrong(folder: Path, overrides: list[str]) -> RunRecord:
        record = search(found[1] / folder.name, overrides)
        if folder.name.endswith("again"):
            record.rows[3]["loss"] += 1e-6
        return record

    monkeypatch.setattr(stopping, "searched", wrong)
    with pytest.raises(BenchmarkError, match="flops_30, seed 0: what was kept on disk changed the search"):
        ablate(SMALL, tmp_path, say=silent)


def test_more_seeds_are_run_with_and_without_stopping_alone(found, tmp_path):
    asked = replace(SMALL, again=False)
    few = ablate(asked, found[1], say=silent)
    (whole,) = found[0]["rows"]
    assert few["rows"] == [{name: value for name, value in whole.items() if name != "again"}]
    made = record(replace(asked, first=10, seeds=2), **few)
    head, _, *lines = table({"stopping_more": made}).splitlines()
    assert "env.rank=2`, seeds 10 to 11 | with |" in head
    assert [line.split(" | ")[1] for line in lines] == ["neither", "memory", "stopping", "both"]


def test_the_summary_by_hand():
    def facts(images: int, forwards: int, selection: float) -> dict[str, float]:
        return {"images": images, "forwards": forwards, "selection": selection}

    rows = [
        {"plain": facts(100, 90, 0.8), "stopping": facts(60, 50, 0.81), "again": facts(60, 0, 0.81)},
        {"plain": facts(100, 70, 0.6), "stopping": facts(40, 25, 0.58), "again": facts(40, 0, 0.58)},
    ]
    results = summary(rows)
    assert results["plain"] == {"images": 100, "forwards": 80, "selection": pytest.approx(0.7)}
    assert results["stopping"]["images"] == 50
    assert results["fewer"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert results["apart"]["value"] == pytest.approx(-0.5)  # 1 and -2 points
    assert results["apart"]["low"] == pytest.approx(-2)
    assert results["apart"]["high"] == pytest.approx(1)


def test_the_table_is_made_of_the_record_alone(found, tmp_path):
    write(tmp_path / "stopping.json", record(SMALL, **found[0]))
    content = json.loads((tmp_path / "stopping.json").read_text())
    assert content["config"]["block"] == 50
    head, _, *lines = table({"stopping": content}).splitlines()
    assert head.startswith(
        "| `env.block=50 env.confidence=1.2 env.rank=2`, 1 seeds | with | networks cut | images run | times"
    )
    cells = [line.strip("| ").split(" | ") for line in lines]
    (facts,) = content["rows"]
    assert lines[0].startswith("| `flops_30` | neither | 40 | 8,000 |  |  | ")
    assert cells[1][:2] == ["memory", str(facts["plain"]["evaluations"])]
    both = facts["stopping"]
    assert cells[3][:3] == ["both", str(both["evaluations"]), f"{both['forwards']:,}"]
    assert cells[3][3].startswith(f"{8000 / both['forwards']:.1f} (")
    assert lines[4].startswith("|  | both, again from disk | 0 | 0 |  | ")


@pytest.mark.parametrize("before", ["elsewhere", None])
def test_the_cache_is_given_back(before, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    if before is None:
        monkeypatch.delenv(CACHE)
    else:
        monkeypatch.setenv(CACHE, before)
    for _ in range(2):  # the second finds the link there
        with suppress(KeyError), cache(tmp_path / "cache"):
            assert os.environ[CACHE] == str(tmp_path / "cache")
            raise KeyError
        assert os.environ.get(CACHE) == before
