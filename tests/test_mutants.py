"""Each common mistake, put into the learner, makes its tests fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = {
    "no terminal mask": ("ddpg.py", "(1 - done) * next_q", "next_q"),
    "frozen target networks": ("networks.py", "old.lerp_(new, tau)", "pass"),
    "the next observation is this one": ("replay.py", "observations[1:]", "observations[:-1]"),
    "noise that never decays": ("noise.py", "self.decay ** max(0, episode - self.warmup)", "1.0"),
    "a policy that descends": ("ddpg.py", "(self.actor_optimizer, -q)", "(self.actor_optimizer, q)"),
}


def run_tests(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The learner's tests upon the agents of a folder."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options]
    command += ["-c", str(folder / "pyproject.toml"), str(folder / "tests")]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The agents, the learner's tests and their settings, apart from everything else."""
    shutil.copytree(ROOT / "agents", tmp_path / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in ("test_ddpg.py", "identity.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.slow
def test_the_tests_pass_without_a_mutant(copy: Path) -> None:
    done = run_tests(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_turns_them_red(name: str, copy: Path) -> None:
    file, old, new = MUTANTS[name]
    path = copy / "agents" / file
    assert path.read_text().count(old) == 1, f"{old!r} is not in {file}: write the mutant anew"
    path.write_text(path.read_text().replace(old, new))
    done = run_tests(copy)
    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stdout
    assert "error" not in done.stdout.partition("FAILED")[0].lower().replace("assertionerror", "")
