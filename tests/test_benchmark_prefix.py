"""Searches with and without prefixes that are kept: on a small network, and the summary by hand."""

import json

import pytest

from experiments.benchmarks import prefix
from experiments.benchmarks.__main__ import record, write
from experiments.benchmarks.prefix import Searches, compare, summary
from experiments.benchmarks.subjects import BenchmarkError
from experiments.benchmarks.tables import table

SMALL = Searches(agents=("greedy",), episodes=12, repeats=1, megabytes=3, overrides=("experiment=digits",))


def silent(line: str) -> None:
    pass


def test_both_searches_are_the_same_and_the_table_is_made_of_the_record(tmp_path):
    found = compare(SMALL, tmp_path / "runs", say=silent)
    (row,) = found["rows"]
    assert row["whole"]["reward"] == row["kept"]["reward"]
    assert row["whole"]["forward"] > 0
    write(tmp_path / "prefix.json", record(SMALL, **found))
    content = json.loads((tmp_path / "prefix.json").read_text())
    head, _, whole, kept = table({"prefix": content}).splitlines()
    assert head.startswith("| `flops_50`, 12 episodes, 1 repeats | `env.prefix_mb` | seconds of forward")
    assert whole.startswith("| `greedy` | 0 | ")
    assert kept.startswith("|  | 3 | ")
    ratio = row["whole"]["forward"] / row["kept"]["forward"]
    assert f"| {ratio:.2f} ({ratio:.2f} to {ratio:.2f}) |" in kept


def test_a_prefix_that_changes_what_is_found_is_told(tmp_path, monkeypatch):
    searched = prefix.searched

    def wrong(folder, overrides):
        made = searched(folder, overrides)
        if folder.name == "kept":
            made.rows[3]["loss"] += 1e-6
        return made

    monkeypatch.setattr(prefix, "searched", wrong)
    with pytest.raises(BenchmarkError, match="greedy: what was kept of first layers changed the search"):
        compare(SMALL, tmp_path, say=silent)


def test_the_summary_by_hand():
    def row(whole, kept):
        sides = {"whole": (whole, 2 * whole, -0.1), "kept": (kept, 2 * kept, -0.1)}
        names = ("forward", "seconds", "reward")
        return {side: dict(zip(names, facts, strict=True)) for side, facts in sides.items()}

    found = summary([row(4.0, 2.0), row(6.0, 2.0), row(5.0, 1.0)])
    assert found["whole"] == {"forward": 5.0, "seconds": 10.0, "reward": -0.1}
    assert found["kept"]["forward"] == 2.0
    assert found["faster"] == {"median": 3.0, "lowest": 2.0, "highest": 5.0}
