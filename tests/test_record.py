"""The record: written as a whole, equal for equal seeds, and kept after any failure."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from clockless import without_clock
from rewriting import cut_short

from amc_env import files
from experiments.recording import provenance
from experiments.recording import record as module
from experiments.recording.record import RecordError, RunRecord, plain

CONFIG = {"seed": 3, "agent": {"sigma": 0.5}, "output": "/somewhere"}


def start(folder: Path) -> RunRecord:
    return RunRecord.create(folder, CONFIG, seeds={"agent": 3})


def fill(record: RunRecord, first: int = 0, last: int = 4) -> RunRecord:
    for episode in range(first, last):
        with record.phase("search"):
            record.add(
                episode=episode,
                reward=np.float32(episode) / 4,
                keeps=np.ones(2),
                seconds={"step": time.time()},
            )
    record.update(best={"episode": last - 1}, results={"selection": 0.5, "latency_ms": time.time()})
    record.finish()
    return record


def contents(folder: Path) -> list[bytes]:
    """Both files without the clock, as bytes."""
    read = RunRecord.read(folder)
    return [json.dumps(without_clock(part)).encode() for part in (read.content, read.rows)]


def test_what_is_written_is_read(tmp_path):
    fill(start(tmp_path / "a" / "b"))
    read = RunRecord.read(tmp_path / "a" / "b")
    assert [row["reward"] for row in read.rows] == [0.0, 0.25, 0.5, 0.75]
    assert read.rows[1]["keeps"] == [1.0, 1.0]
    content = read.content
    assert content["config"] == {"seed": 3, "agent": {"sigma": 0.5}}
    assert content["status"] == "finished"
    assert content["best"] == {"episode": 3}
    assert content["seeds"] == {"agent": 3}
    assert content["results"]["selection"] == 0.5
    assert set(content["seconds"]) == {"search"}
    assert set(content["run"]) == {"command", "folder", "machine", "started", "ended", "rows"}
    assert content["versions"]["numpy"] == np.__version__
    assert read.notes == []
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["record.json", "record.jsonl"]


def test_two_runs_differ_in_the_clock_alone(tmp_path, monkeypatch):
    fill(start(tmp_path / "a"))
    monkeypatch.setattr(module.sys, "argv", ["another", "command"])
    monkeypatch.setattr(module, "_now", lambda: "tomorrow")
    fill(start(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a" / "record.jsonl").read_bytes() != (tmp_path / "b" / "record.jsonl").read_bytes()
    other = RunRecord.create(tmp_path / "c", CONFIG | {"seed": 4}, seeds={"agent": 4})
    assert contents(fill(other).folder) != contents(tmp_path / "a")


def test_the_order_in_which_things_are_given_does_not_show(tmp_path):
    for name, row in (("a", {"x": 1, "y": {"b": 2, "c": 3}}), ("b", {"y": {"c": 3, "b": 2}, "x": 1})):
        record = start(tmp_path / name)
        record.add(**row)
        record.update(results=row)
    assert (tmp_path / "a" / "record.jsonl").read_bytes() == (tmp_path / "b" / "record.jsonl").read_bytes()
    orders = [list(RunRecord.read(tmp_path / name).content["results"]) for name in "ab"]
    assert orders == [["x", "y"]] * 2


def test_without_clock_by_hand():
    value = {
        "run": 1, "seconds": {"a": 2}, "step_seconds": 3, "latency_ms": [4], "runs": 5,
        "rows": [{"seconds": 6, "keep": [7, {"p50_ms": 8}]}, 9],
    }  # fmt: skip
    assert without_clock(value) == {"runs": 5, "rows": [{"keep": [7, {}]}, 9]}


KILLED = """
import os, pathlib, signal, sys
from experiments.recording.record import RunRecord
record = RunRecord.create(pathlib.Path(sys.argv[1]), {}, seeds={})
record.add(episode=0)
record.add(episode=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_row_is_on_the_disk_at_once_and_survives_a_kill(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    read = RunRecord.read(tmp_path)
    assert [row["episode"] for row in read.rows] == [0, 1]
    assert read.content["status"] == "running"


def test_a_torn_last_row_is_dropped_with_a_note_but_damage_before_it_is_an_error(tmp_path):
    folder = fill(start(tmp_path)).folder
    cut_short(folder, 0)
    record = RunRecord.read(folder)
    for episode in range(4):
        record.add(episode=episode)
    rows = folder / "record.jsonl"
    whole = rows.read_bytes()
    for cut in (1, 20):
        rows.write_bytes(whole[:-cut])
        read = RunRecord.read(folder)
        assert [row["episode"] for row in read.rows] == [0, 1, 2]
        assert read.notes == [f"{rows}: the last row was cut short and is dropped"]
    rows.write_bytes(whole.replace(b'"episode": 1', b'"episode" 1'))
    with pytest.raises(RecordError, match="line 2, is damaged"):
        RunRecord.read(folder)
    rows.write_bytes(whole.replace(b'"episode": 1', b'"episode": 7'))
    with pytest.raises(RecordError, match="line 2, is damaged, or of another run"):
        RunRecord.read(folder)


def test_rows_that_are_lost_or_of_another_run_are_told(tmp_path):
    folder = fill(start(tmp_path / "a")).folder
    rows = folder / "record.jsonl"
    whole = rows.read_bytes()
    for left in (whole[:-1], b"".join(whole.splitlines(keepends=True)[:3]), b""):
        rows.write_bytes(left)
        with pytest.raises(RecordError, match=r"whole rows of 4; nothing is changed"):
            RunRecord.read(folder)
    other = fill(RunRecord.create(tmp_path / "b", CONFIG | {"seed": 4}, seeds={"agent": 4})).folder
    rows.write_bytes((other / "record.jsonl").read_bytes())
    with pytest.raises(RecordError, match="line 1, is damaged, or of another run"):
        RunRecord.read(folder)


def test_a_resumed_record_equals_an_uninterrupted_one(tmp_path):
    whole = fill(start(tmp_path / "whole"))
    broken = start(tmp_path / "broken")
    for episode in range(3):
        broken.add(episode=episode, reward=np.float32(episode) / 4, keeps=np.ones(2), seconds={"step": 0.0})
    with (broken.folder / "record.jsonl").open("a") as file:
        file.write('{"episode": 3, "rew')
    resumed = RunRecord.resume(tmp_path / "broken", CONFIG | {"output": "elsewhere"}, episodes=2)
    assert [row["episode"] for row in resumed.rows] == [0, 1]
    fill(resumed, first=2)
    assert contents(whole.folder) == contents(tmp_path / "broken")
    assert len(resumed.content["run"]["resumed"]) == 1


def test_what_cannot_be_gone_on_with(tmp_path, monkeypatch):
    fill(start(tmp_path))
    with pytest.raises(RecordError, match=r"another configuration \(agent\.sigma was 0\.5, is 0\.4\)"):
        RunRecord.resume(tmp_path, CONFIG | {"agent": {"sigma": 0.4}}, episodes=1)
    with pytest.raises(RecordError, match="has 4 rows, cannot go on after 5"):
        RunRecord.resume(tmp_path, CONFIG, episodes=5)
    with pytest.raises(RecordError, match="no record in"):
        RunRecord.resume(tmp_path / "none", CONFIG, episodes=0)
    assert len(RunRecord.read(tmp_path).rows) == 4
    monkeypatch.setattr(module, "commit", lambda: "abc-dirty")
    resumed = RunRecord.resume(tmp_path, CONFIG, episodes=1)
    assert resumed.content["commit"].endswith(", then abc-dirty")


def test_a_finished_run_keeps_its_commit_until_something_is_added(tmp_path, monkeypatch):
    before = fill(start(tmp_path)).content["commit"]
    monkeypatch.setattr(module, "commit", lambda: "abc")
    with RunRecord.resume(tmp_path, CONFIG, episodes=4):
        pass
    content = RunRecord.read(tmp_path).content
    assert (content["commit"], content["status"]) == (before, "finished")
    assert "resumed" not in content["run"]
    with RunRecord.resume(tmp_path, CONFIG, episodes=4) as record:
        record.add(episode=4)
        record.add(episode=5)
    content = RunRecord.read(tmp_path).content
    assert content["commit"] == f"{before}, then abc"
    assert len(content["run"]["resumed"]) == 1


def test_a_record_is_never_written_over(tmp_path):
    fill(start(tmp_path))
    before = (tmp_path / "record.jsonl").read_bytes()
    with pytest.raises(RecordError, match="already holds a record"):
        start(tmp_path)
    assert (tmp_path / "record.jsonl").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"cannot be written .*: choose another with output=FOLDER"):
        start(tmp_path / "file" / "run")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0}', json.dumps(files.seal({"format": 0}))])
def test_a_damaged_record_is_told(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=r"record\.json (is damaged|is not a record|has no digest)"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), np.array([0.0, np.inf])])
def test_a_number_that_is_not_finite_stops_the_run_and_keeps_what_was(tmp_path, value):
    record = start(tmp_path)
    record.add(episode=0, reward=0.5)
    with pytest.raises(RecordError, match=r"metrics\.critic.* is (nan|inf): the run stops here"):
        record.add(episode=1, metrics={"critic": value})
    assert RunRecord.read(tmp_path).rows == [{"episode": 0, "reward": 0.5}]


def test_an_update_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    record = start(tmp_path)
    record.update(best={"episode": 1})
    with pytest.raises(RecordError, match=r"best is a object"):
        record.update(best=object())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        record.update(best={"episode": 2})
    assert RunRecord.read(tmp_path).content["best"] == {"episode": 1}
    assert sorted(os.listdir(tmp_path)) == ["record.json", "record.jsonl"]


def test_plain_data():
    @dataclasses.dataclass
    class Fact:
        path: Path
        sizes: tuple[int, ...]

    value = {1: Fact(Path("a/b"), (1, 2)), "none": None, "count": np.int64(3), "flag": np.bool_(True)}
    assert plain(value) == {"1": {"path": "a/b", "sizes": [1, 2]}, "none": None, "count": 3, "flag": True}
    with pytest.raises(RecordError, match=r"a\.b\[1\] is a set"):
        plain({"a": {"b": [1, {2}]}})


def test_phases_add_up_also_when_they_fail(tmp_path, monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    record = start(tmp_path)
    for name in ("search", "search", "finetune"):
        with pytest.raises(ZeroDivisionError), record.phase(name):
            raise ZeroDivisionError
    assert record.content["seconds"] == {"search": 3.5, "finetune": 0.25}


@pytest.mark.parametrize(
    ("error", "status"), [(None, "finished"), (KeyboardInterrupt, "interrupted"), (ValueError, "failed")]
)
def test_how_a_run_ended_is_written(tmp_path, error, status):
    with contextlib.suppress(KeyboardInterrupt, ValueError), start(tmp_path) as record:
        record.add(episode=0)
        if error is not None:
            raise error
    read = RunRecord.read(tmp_path)
    assert (read.content["status"], len(read.rows)) == (status, 1)
    assert "ended" in read.content["run"]


def test_the_commit_says_what_runs(tmp_path, monkeypatch):
    assert provenance.commit() == "unknown" or len(provenance.commit().removesuffix("-dirty")) == 40
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"
