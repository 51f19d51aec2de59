"""Wrong command lines end with one helpful message and exit status 2, and write nothing."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).parent / "bad_inputs.txt"
ROW = re.compile(r"(?P<fast>\* )?(?P<command>\w+) ?(?P<words>.*?) +=> (?P<message>.*)")


def rows(*, fast: bool) -> list[tuple[str, str, str]]:
    """Command, words and a part of the message of the rows with or without a star."""
    found = []
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            row = ROW.fullmatch(line)
            assert row is not None, f"not a row: {line}"
            if bool(row["fast"]) == fast:
                found.append((row["command"], row["words"], row["message"]))
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """The folder that the command lines are typed in."""
    folder = tmp_path / "here"
    (folder / "EMPTY").mkdir(parents=True)
    (folder / "DAMAGED").mkdir()
    (folder / "FILE").touch()
    for name in ("record.json", "plan.json", "net.json", "net.safetensors", "net.onnx"):
        (folder / "DAMAGED" / name).write_text("{")
    monkeypatch.chdir(folder)
    return folder


def check(command: str, words: str, message: str, where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command in this process."""
    before = sorted(where.rglob("*"))
    entry = importlib.import_module(f"experiments.{command}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"experiments.{command}", *shlex.split(words)])
        with pytest.raises(SystemExit) as stopped:
            entry.main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("error: ")
    assert message in told
    assert told.count("error: ") == 1
    assert len(told) < 1500
    assert sorted(where.rglob("*")) == before


@pytest.mark.parametrize(("command", "words", "message"), rows(fast=True))
def test_the_first_of_each_kind(command, words, message, here, capsys):
    check(command, words, message, here, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "words", "message"), rows(fast=False))
def test_all_others(command, words, message, here, capsys):
    check(command, words, message, here, capsys)


def test_the_table_has_every_command_and_group():
    text = TABLE.read_text()
    found = [*rows(fast=True), *rows(fast=False)]
    assert len(found) >= 250
    assert len(set(found)) == len(found)
    root = TABLE.parents[1]
    commands = {path.stem for path in (root / "experiments").glob("*.py")} - {"__init__"}
    assert {command for command, _, _ in found} == commands
    groups = {path.name for path in (root / "conf").iterdir() if path.is_dir() and path.name != "hydra"}
    assert not [group for group in sorted(groups) if f"{group}=" not in text]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "words"), [(command, words) for command, words, _ in rows(fast=True)])
def test_a_process_of_its_own_says_the_same(command, words, here):
    environment = os.environ | {"PYTHONPATH": str(TABLE.parents[1])}
    line = [sys.executable, "-m", f"experiments.{command}", *shlex.split(words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
