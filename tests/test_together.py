"""Two processes in one folder, signals, and children of a process that has ended."""

import os
import signal
from pathlib import Path

import forks
import pytest
from test_kills import BEFORE, COMMANDS, LONG

from amc_env import files
from experiments.recording.record import RECORD, ROWS, RunRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("imported")]
HOLDER = ".lock.holder"


def rows(folder: Path) -> int:
    return (folder / ROWS).read_text().count("\n") if (folder / ROWS).exists() else 0


def status(folder: Path) -> str:
    return str(RunRecord.read(folder).content["status"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("sweep", "tune")])
def test_a_second_process_is_refused_and_disturbs_nothing(name: str, tmp_path: Path) -> None:
    words = [*COMMANDS[name][1], "output=run"]
    if name in BEFORE:
        assert forks.run(BEFORE[name], tmp_path / "before")[0] == 0, (tmp_path / "before.log").read_text()
    first = forks.start(words, tmp_path / "both")
    forks.until((tmp_path / "both" / "run" / HOLDER).exists)
    os.kill(first, signal.SIGSTOP)  # or a slow machine starts the second after its end
    second = forks.start(words, tmp_path / "both", name="second")
    code = forks.ended(second)
    os.kill(first, signal.SIGCONT)
    assert code == 2
    told = (tmp_path / "both.second").read_text()
    assert told.startswith("error: another process is at work in ")
    assert f"(process {first} on " in told
    assert " since 2" in told
    assert forks.ended(first) == 0, (tmp_path / "both.log").read_text()
    assert forks.run(words, tmp_path / "alone")[0] == 0
    assert forks.left(tmp_path / "both") == forks.left(tmp_path / "alone")


def test_a_sweep_that_is_started_twice_is_shared(tmp_path: Path) -> None:
    words = [*COMMANDS["sweep"][1], "output=run"]
    first = forks.start(words, tmp_path / "both")
    forks.until(lambda: any((tmp_path / "both").rglob(HOLDER)))
    second = forks.start(words, tmp_path / "both", name="second")
    assert (forks.ended(first), forks.ended(second)) == (0, 0), (tmp_path / "both.log").read_text()
    for log in ("log", "second"):
        assert "finished, " in (text := (tmp_path / f"both.{log}").read_text()), text
        assert "failed" not in text
    assert forks.run(words, tmp_path / "alone")[0] == 0
    assert forks.left(tmp_path / "both") == forks.left(tmp_path / "alone")


def test_a_tuning_that_is_started_twice_is_shared(tmp_path: Path) -> None:
    words = ["tune", "table=digits", "seeds=1", "episodes=60", "trials=9", "output=run"]
    processes = [forks.start(words, tmp_path / "both", name=name) for name in ("log", "second")]
    assert [forks.ended(pid) for pid in processes] == [0, 0], (tmp_path / "both.log").read_text()
    record = RunRecord.read(tmp_path / "both" / "run")
    assert sorted(row["trial"] for row in record.rows) == [*range(10)]
    assert record.content["status"] == "finished"
    told = [(tmp_path / f"both.{name}").read_text().splitlines()[-1] for name in ("log", "second")]
    assert told == [f"python -m experiments.search {' '.join(record.content['best']['overrides'])}"] * 2


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("name", ["search", "pretrain", "compare"])
def test_a_signal_leaves_a_record_that_says_so(
    name: str, number: signal.Signals, expected: int, tmp_path: Path
) -> None:
    words, folder = [*COMMANDS[name][1], "output=run"], tmp_path / "torn" / "run"
    pid = forks.start(words, tmp_path / "torn")
    forks.until(lambda: rows(folder) >= 2)
    os.kill(pid, number)
    assert forks.ended(pid) == expected
    told = (tmp_path / "torn.log").read_text()
    assert f"error: ended by {number.name}" in told
    assert "Traceback" not in told
    assert status(folder) == "interrupted"
    assert (folder / "plan.json").exists() == (name == "search")
    assert not (folder / HOLDER).exists()
    assert forks.run(words, tmp_path / "torn")[0] == 0
    assert forks.run(words, tmp_path / "whole")[0] == 0
    assert forks.left(tmp_path / "torn") == forks.left(tmp_path / "whole")


def test_children_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    folder = tmp_path / "torn"
    words = ["search", "-m", *LONG[1:], "seed=0,1", "hydra/launcher=local", "output=run"]
    parent = forks.start(words, folder)
    forks.until(lambda: len([path for path in folder.rglob(ROWS) if rows(path.parent) > 1]) == 2)
    children = [int(files.parse(path.read_bytes())["pid"]) for path in folder.rglob(HOLDER)]
    assert len(set(children)) == 2
    assert parent not in children
    os.kill(parent, signal.SIGKILL)
    forks.ended(parent)
    forks.until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children), 60)
    assert {status(path.parent) for path in folder.rglob(RECORD)} == {"interrupted"}
