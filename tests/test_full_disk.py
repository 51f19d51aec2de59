"""Full disks: one message, nothing that was written is lost, and the same command continues."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fault_records
import forks
import pytest
from test_kills import DIGITS, LENET, LONG

from experiments.recording.record import RunRecord

PRETRAIN = ("pretrain", *DIGITS, "device=cpu", "recipe.epochs=2", "recipe.bfloat16=false")
ROOM = "64m"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("imported")]


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes at a folder; the test is skipped where none can be mounted."""
    folder.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def more_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(folder)], check=True)


def refused(log: Path) -> str:
    """The one line that a command ended with."""
    text = log.read_text()
    assert "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "No space left" in text
    return line


OUTPUTS: dict[str, tuple[str, Sequence[str]]] = {  # of a command, the bytes that there are
    "search": ("28k", LONG),
    "search and delivery": (
        "300k", ("search", "experiment=digits", "agent=uniform", "episodes=1", "finetune.epochs=1"),
    ),
    "pretrain": ("100k", PRETRAIN),
    "compare": ("20k", ("compare", "table=digits", "targets=[0.5,0.3]", "episodes=20", "seeds=12",
                         "only=[random,cmaes]")),
    "deep_compress": ("300k", (*LENET, "device=cpu", "recipe.epochs=1", "rounds=1", "sharing.epochs=1",
                              "model.checkpoint=../before/net/lenet300_100-digits")),
    "sweep": ("40k", ("search", "-m", *LONG[1:], "seed=0,1")),
    "search, W&B": ("16k", (*LONG, "tracking=wandb_offline")),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_runs_full(name: str, tmp_path: Path) -> None:
    size, words = OUTPUTS[name]
    if name == "deep_compress":
        before = ("pretrain", *LENET[1:], "device=cpu", "recipe.epochs=2", "output=net")
        assert forks.run(before, tmp_path / "before")[0] == 0
    assert forks.run([*words, "output=run"], tmp_path / "whole")[0] == 0, (tmp_path / "whole.log").read_text()
    torn = tmp_path / "torn" / "run"
    with mounted(torn / "wandb" if "W&B" in name else torn, size) as there:
        status, _ = forks.run([*words, "output=run"], torn.parent)
        line = refused(tmp_path / "torn.log")
        assert status == 2, line
        assert not list(torn.rglob("*.part"))
        records = [RunRecord.read(path.parent) for path in torn.rglob("record.json")]
        told = "none" if not records else ", ".join(sorted({record.content["status"] for record in records}))
        assert "finished" not in told or name == "sweep"
        more_room(there)
        status, _ = forks.run([*words, "output=run"], torn.parent)
        assert status == 0, (tmp_path / "torn.log").read_text()
        assert forks.left(torn.parent) == forks.left(tmp_path / "whole")
    fault_records.keep(
        "full_disk",
        name if "," in name else f"{name}, output",
        bytes=size,
        ended="status 2, one line",
        told=told,
        again="equal",
    )


def test_a_run_can_do_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*LONG, "output=run"]
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))
    assert forks.run(words, tmp_path / "whole")[0] == 0, (tmp_path / "whole.log").read_text()
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "small"))
    with mounted(tmp_path / "small", "16k"):
        status, _ = forks.run(words, tmp_path / "torn")
        text = (tmp_path / "torn.log").read_text()
        assert status == 0, text
        assert "cannot be written ([Errno 28] No space left on device): it will be made again" in text
        assert forks.left(tmp_path / "torn") == forks.left(tmp_path / "whole")
    fault_records.keep(
        "full_disk", "search, cache", bytes="16k", ended="status 0, a warning", told="finished", again="equal"
    )
