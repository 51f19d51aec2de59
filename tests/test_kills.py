"""One search that is killed again and again ends with the record of one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.recording.record import RECORD, ROWS, RunRecord, without_clock

KILLS = 30
SEARCH = ("experiment=digits", "agent=ddpg_elites", "agent.learn_after=5", "deliver=false", "save_every=3")


def start(folder: Path, episodes: int) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "experiments.search",
        *SEARCH,
        f"episodes={episodes}",
        f"output={folder}",
    ]
    return subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder: Path, episodes: int) -> None:
    process = start(folder, episodes)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def written(folder: Path) -> int:
    """Bytes of the rows on the disk."""
    return (folder / ROWS).stat().st_size if (folder / ROWS).exists() else 0


def kill_after(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Kill it somewhere in its start, or somewhere in the episodes once it has written some."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 4))
    else:
        before, more = written(folder), rng.randrange(1, 3000)
        while process.poll() is None and abs(written(folder) - before) < more:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_kills_leave_the_record_as_it_was(tmp_path: Path) -> None:
    episodes, rng = 150, random.Random(0)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    finish(whole, episodes)
    for kill in range(KILLS):
        kill_after(start(torn, episodes), torn, rng)
        if (torn / RECORD).exists():
            status = RunRecord.read(torn).content["status"]
            assert status == "running", f"{status} before kill {kill + 1}: give it more episodes"
    finish(torn, episodes)
    uninterrupted, killed = RunRecord.read(whole), RunRecord.read(torn)
    assert len(killed.content["run"]["resumed"]) >= KILLS / 2
    assert json.dumps(without_clock(killed.rows)) == json.dumps(without_clock(uninterrupted.rows))
    for key in ("best", "config", "seeds"):
        assert killed.content[key] == uninterrupted.content[key]
    results = (without_clock(record.content["results"]) for record in (killed, uninterrupted))
    ours, theirs = ({key: part for key, part in one.items() if key != "work"} for one in results)
    assert ours == theirs
