"""Sweeps: the same command skips finished runs and resumes others; a failure stops no other run."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clockless import without_clock
from omegaconf import DictConfig, OmegaConf
from rewriting import change_record

from experiments import search
from experiments.cli import suggest
from experiments.cli.config import CONF
from experiments.cli.sweep import LONGEST, folder_name
from experiments.recording.lock import BusyError, alone
from experiments.recording.record import RECORD, RecordError, RunRecord
from experiments.searching import search as job

SMALL = ("experiment=digits", "episodes=3", "save_every=1", "deliver=false", "confirm=1")
NETS = """
import os
from amc_env.zoo.tiny import digits_cnn

def fine(classes, in_channels):
    return digits_cnn(classes=classes, in_channels=in_channels)

def killed(classes, in_channels):
    os.kill(os.getpid(), 9)
"""

Sweep = Callable[..., int]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A function of a sweep's overrides that runs it in an empty folder and gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["experiments.search", "-m", *SMALL, *words])
        try:
            search.main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run


def folder(agent: str, seed: int, parent: str = "runs/sweeps/digits_cnn-digits-flops_50") -> Path:
    words = f"agent={agent},confirm=1,deliver=False,episodes=3,experiment=digits,save_every=1,seed={seed}"
    return Path(parent) / words


def test_groups_that_a_sweep_varies_are_in_the_names_of_its_folders(sweep: Sweep) -> None:
    assert sweep("agent=random", "protocol=flops_50,flops_30", "output=runs/mine") == 0
    names = sorted(path.parent.name for path in Path("runs/mine").glob(f"*/{RECORD}"))
    assert [name.rpartition("protocol=")[2].partition(",")[0] for name in names] == ["flops_30", "flops_50"]


def record(where: Path) -> str:
    """All of a record that does not depend on the clock; whether it was resumed is no part of it."""
    found = RunRecord.read(where)
    return json.dumps(without_clock([found.content, found.rows]), sort_keys=True)


@pytest.mark.slow
def test_the_same_sweep_again_has_nothing_left_to_do(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("agent=random,cmaes", "seed=0,1")
    assert sweep(*words) == 0
    folders = [folder(agent, seed) for agent in ("random", "cmaes") for seed in (0, 1)]
    before = [(f / RECORD).read_bytes() for f in folders]
    assert "4 runs in runs/sweeps/digits_cnn-digits-flops_50: 0 finished" in capsys.readouterr().out

    assert sweep(*words) == 0
    printed = capsys.readouterr().out
    assert "4 finished, 0 left to do" in printed
    assert "nothing is left to do in this sweep" in printed
    assert [(f / RECORD).read_bytes() for f in folders] == before

    assert sweep("agent=random", "seed=0,1,2") == 0  # a larger one begins where the smaller ended
    assert "3 runs in runs/sweeps/digits_cnn-digits-flops_50: 2 finished" in capsys.readouterr().out
    assert (folder("random", 2) / RECORD).exists()


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_records_of_one_that_was_not(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("agent=random", "seed=0,1,2", "output=whole") == 0
    add = RunRecord.add

    def die(self: RunRecord, **row: object) -> None:
        add(self, **row)
        if (self.content["seeds"]["search"], row["episode"]) == (1, 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", die)
    assert sweep("agent=random", "seed=0,1,2", "output=torn") == 130
    monkeypatch.setattr(RunRecord, "add", add)
    assert len(RunRecord.read(folder("random", 1, "torn")).rows) == 2
    assert not folder("random", 2, "torn").exists()

    capsys.readouterr()
    assert sweep("agent=random", "seed=0,1,2", "output=torn") == 0
    assert "3 runs in torn: 1 finished, 2 left to do" in capsys.readouterr().out
    assert "resumed" in RunRecord.read(folder("random", 1, "torn")).content["run"]
    for seed in range(3):
        assert record(folder("random", seed, "torn")) == record(folder("random", seed, "whole"))


@pytest.mark.slow
def test_a_failed_run_is_named_at_the_end_and_loses_no_other(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    confirm = job.confirm

    def fault(env: object, of: RunRecord, **asked: object) -> object:
        return 1 / 0 if of.content["seeds"]["search"] == 1 else confirm(env, of, **asked)

    monkeypatch.setattr(job, "confirm", fault)
    words = ("agent=random", "protocol.target=0.001,0.5", "seed=0,1", "output=sweep")
    assert sweep(*words) == 2
    printed = capsys.readouterr()
    summary = printed.err[printed.err.index("error: ") :].splitlines()
    assert summary[0] == "error: 3 of 4 runs failed; the same command goes on with what is left"
    shared = "deliver=False confirm=1 agent=random protocol.target="
    told = [line.split(shared)[1] for line in summary[1:]]
    assert [line.split(": ")[0] for line in told] == ["0.001 seed=0", "0.001 seed=1", "0.5 seed=1"]
    assert "target" in told[0].split(": ", 1)[1]
    assert told[2].endswith("ZeroDivisionError: division by zero")
    assert "Traceback" in printed.err[: printed.err.index("error: ")]
    (finished,) = (path for path in Path("sweep").iterdir() if "target=0.5,save_every=1,seed=0" in path.name)
    assert RunRecord.read(finished).content["status"] == "finished"

    monkeypatch.setattr(job, "confirm", confirm)
    assert sweep(*words[:1], "protocol.target=0.5", *words[2:]) == 0
    assert "2 runs in sweep: 1 finished, 1 left to do" in capsys.readouterr().out


def test_a_finished_run_of_another_configuration_is_not_taken_for_this_one(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("agent=random", "seed=0") == 0
    config = RunRecord.read(folder("random", 0)).content["config"]
    config["env"]["beta"] = 0.123
    change_record(folder("random", 0), config=config)
    assert sweep("agent=random", "seed=0,1") == 2
    message = capsys.readouterr().err
    assert "error: 1 of 2 runs failed" in message
    assert "is of another configuration (env.beta was 0.123, is 0.7)" in message
    assert (folder("random", 1) / RECORD).exists()


def test_runs_that_would_share_a_folder_are_refused_before_any_is_run(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("agent=random", "seed=0,0") == 2
    assert "these runs would share a folder: " in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_the_runs_of_any_sweep_lie_below_runs(command: str, composed: Callable[..., DictConfig]) -> None:
    hydra = composed(command, full=True).hydra
    assert hydra.sweep.dir.startswith("runs/sweeps/")
    assert hydra.sweep.subdir == hydra.job.override_dirname
    assert hydra.sweeper._target_.endswith("ResumableSweeper")
    assert ("output" in hydra.job.config.override_dirname.exclude_keys) == ("output" in composed(command))


def test_a_sweep_file_and_its_words_are_the_same_sweep(composed: Callable[..., object]) -> None:
    names = [
        OmegaConf.select(composed("config", *words, "seed=1", full=True), "hydra.sweep.subdir")
        for words in (["sweep=agents", "agent=deep"], ["agent=deep"])
    ]
    assert names == ["agent=deep,seed=1"] * 2


def test_the_name_of_a_folder() -> None:
    assert folder_name("agent=ddpg,seed=0") == "agent=ddpg,seed=0"
    assert folder_name("agent.lr=1e-3,+x=[1,2]") == "agent.lr=1e-3,+x=_1,2_"
    assert folder_name("model.checkpoint=../a/b c") == "model.checkpoint=.._a_b_c"
    assert folder_name("") == "defaults"
    assert len({folder_name("data.root=dä"), folder_name("data.root=dö")}) == 2
    long = [folder_name("a" * LONGEST + end) for end in ("bc", "bd")]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 255


def taken(folder: Path) -> bool:
    with alone(folder):
        return True


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with (
            ThreadPoolExecutor(1) as other,
            pytest.raises(BusyError, match=r"at work in .*run since 2.* \(process \d+ on .*\): wait"),
        ):
            other.submit(taken, tmp_path / "run").result()
        with alone(tmp_path / "run"):  # by the same thread, as an ablation's searches are within it
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "run"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot be written"), alone(tmp_path / "file"):
        pass


def explained(*words: str) -> str:
    return suggest.explain(ValueError("unused"), CONF, "config", list(words))


def test_an_unknown_launcher_is_told_with_those_there_are() -> None:
    message = explained("hydra/launcher=submitit_slum")
    assert message.startswith("no 'submitit_slum' in group 'hydra/launcher' (did you mean submitit_slurm")
    for launcher in ("basic", "joblib", "submitit_local", "ray"):
        assert launcher in message


@pytest.mark.parametrize("choice", [*suggest.EXTRAS, *(p.stem for p in (CONF / "hydra/launcher").iterdir())])
def test_a_launcher_that_is_not_installed_is_told_with_what_brings_it(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = suggest._choices

    def bare(loader: object, group: str, name: str, paths: list[str]) -> list[str]:
        return [one for one in found(loader, group, name, paths) if one not in suggest.EXTRAS]

    monkeypatch.setattr(suggest, "_choices", bare)
    extras = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    message = explained(f"hydra/launcher={choice}")
    extra = message.partition("pip install 'amc-rl[")[2].rstrip("]'")
    assert message == f"hydra/launcher={choice} is not installed: pip install 'amc-rl[{extra}]'"
    assert extra in extras


def command(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same as a command of its own, whose processes find the modules of a folder."""
    environment = os.environ | {"PYTHONPATH": f"{where}:{CONF.parent}", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "experiments.search", "-m", *SMALL, *words]
    return subprocess.run(line, cwd=where, env=environment, capture_output=True, text=True, check=False)


def needed(launcher: str, plugin: str, program: str = sys.executable) -> object:
    missing = importlib.util.find_spec(f"hydra_plugins.{plugin}") is None or not shutil.which(program)
    reason = f"needs pip install 'amc-rl[{suggest.EXTRAS[launcher]}]' and {program}"
    return pytest.param(launcher, marks=pytest.mark.skipif(missing, reason=reason))


JOBLIB = needed("joblib", "hydra_joblib_launcher")
RAY = needed("ray", "hydra_ray_launcher")
LOCAL = needed("submitit_local", "hydra_submitit_launcher")
SLURM = needed("submitit_slurm", "hydra_submitit_launcher", "sbatch")


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return six_records(tmp_path_factory.mktemp("basic"), "basic")


def six_records(where: Path, launcher: str) -> dict[str, str]:
    words = ("agent=ddpg_elites,sb3_td3,random", "seed=0,1", "episodes=110", f"hydra/launcher={launcher}")
    done = command(where, *words, "output=sweep")
    assert done.returncode == 0, done.stderr
    return {path.parent.name: record(path.parent) for path in (where / "sweep").glob("*/record.json")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", [JOBLIB, RAY, LOCAL, SLURM])
def test_every_launcher_gives_the_records_of_the_basic_one(
    launcher: str, basic: dict[str, str], tmp_path: Path
) -> None:
    assert len(basic) == 6
    assert six_records(tmp_path, launcher) == basic


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", [JOBLIB, RAY])
def test_a_run_whose_process_is_killed_loses_no_other(launcher: object, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    words = ("agent=random", "model=import", "target=nets:killed,nets:fine", "seed=0,1", "output=sweep")
    done = command(tmp_path, *words, f"hydra/launcher={launcher}")
    assert done.returncode == 2
    summary = done.stderr[done.stderr.rindex("error: ") :]
    assert summary.startswith("error: 2 of 4 runs failed; the same command goes on with what is left\n")
    assert summary.count("nets\\:killed") == 2
    fine = list((tmp_path / "sweep").glob("*nets_fine*/record.json"))
    assert [json.loads(path.read_text())["status"] for path in fine] == ["finished"] * 2
