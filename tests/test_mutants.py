"""Each common mistake, put into a learner, an agent over plans or the budget, makes its tests fail."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # of each file that is changed, one or several
    "agents/ddpg.py": "test_ddpg.py",
    "agents/networks.py": "test_ddpg.py",
    "agents/replay.py": "test_ddpg.py",
    "agents/noise.py": "test_ddpg.py",
    "agents/gp_errors.py": "test_gp_errors.py",
    "agents/damage.py": "test_gp_errors.py",
    "agents/lattice.py": "test_lattice.py",
    "amc_env/budget.py": "test_budget.py test_falling_costs.py",
}
BESIDE = ("identity.py", "networks.py")  # what these tests import from their own folder
DATA = ("tables", "zoo/checkpoints")  # of `amc_env`: large, and never changed
MUTANTS = {
    "no terminal mask": ("agents/ddpg.py", "(1 - done) * next_q", "next_q"),
    "frozen target networks": ("agents/networks.py", "old.lerp_(new, tau)", "pass"),
    "the next observation is this one": ("agents/replay.py", "observations[1:]", "observations[:-1]"),
    "noise that never decays": (
        "agents/noise.py", "self.decay ** max(0, episode - self.warmup)", "1.0",
    ),
    "a policy that descends": (
        "agents/ddpg.py", "(self.actor_optimizer, -q)", "(self.actor_optimizer, q)",
    ),
    "a process of the rewards themselves": (
        "agents/gp_errors.py", "values - prior(played)", "values",
    ),
    "a prior that is not added again": ("agents/gp_errors.py", "mean + prior(plans)", "mean"),
    "a slope that may rise": ("agents/gp_errors.py", "min(0.0, float(apart", "min(9.0, float(apart"),
    "no uniform plan": (
        "agents/gp_errors.py",
        "np.concatenate([promising[:1], lattice.filled(lattice.uniform(), self.rng)])",
        "promising[:2]",
    ),
    "bad plans are not alike": (
        "agents/gp_errors.py", "slope * np.minimum(self.damage(lattice, plans), worst)",
        "slope * self.damage(lattice, plans)",
    ),
    "damage is the error": ("agents/damage.py", "POWER = 1.5", "POWER = 1.0"),
    "damage without a root": ("agents/damage.py", "np.sqrt(each * loss)", "each * loss"),
    "rises of the loss are not read": ("agents/damage.py", 'if "losses" not in info', "if True"),
    "the most damage first": (
        "agents/damage.py", "return pool[np.argsort(judge(pool)", "return pool[np.argsort(-judge(pool)",
    ),
    "no search for less damage": ("agents/damage.py", "ROUNDS = 20", "ROUNDS = 0"),
    "a budget that is never used up": (
        "agents/lattice.py", "each.cost(plans) <= each.most", "each.cost(plans) < each.most",
    ),
    "groups cost what they cost alone": (
        "agents/lattice.py", "total += table[plans[:, one], plans[:, other]]", "pass",
    ),
    "filling beyond the budget": ("agents/lattice.py", "self.within(raised) & (raised", "(raised"),
    "mutants beyond the budget": (
        "agents/lattice.py", "np.where(self.within(changed)[:, None], changed, given)", "changed",
    ),
    "neighbours beyond the budget": ("agents/lattice.py", "inside[self.within(inside)]", "inside"),
    "keep ratios one below": ("agents/lattice.py", "keeps[:, decision] + 1e-6", "keeps[:, decision] - 1e-6"),
    "a target in binary": (
        "amc_env/budget.py", "math.floor(Fraction(str(float(target))) * dense)", "math.floor(target * dense)",
    ),
    "the rest stays whole": (
        "amc_env/budget.py", "self.cheapest[group:]", "self.dense_counts[group:]",
    ),
    "the last limit alone": ("amc_env/budget.py", "fits &= limit", "fits = limit"),
    "a channel lost to rounding": ("amc_env/budget.py", "np.floor(wanted + SLACK)", "np.floor(wanted)"),
    "the floor is the cheapest": (
        "amc_env/budget.py", "choices[np.max(each, axis=0).argmin()]", "choices[0]",
    ),
}  # fmt: skip
CONFTEST = """from hypothesis import settings
settings.register_profile("copy", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("copy")
"""


def run_tests(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """These files of tests upon the packages of a folder."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += [
        "-c",
        str(folder / "pyproject.toml"),
        *(str(folder / "tests" / name) for name in tests.split()),
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Agents, environment, their tests and settings, apart from everything else."""
    for package in ("agents", "amc_env"):
        ignored = shutil.ignore_patterns("__pycache__", *(Path(name).name for name in DATA))
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    for name in DATA:
        (tmp_path / "amc_env" / name).symlink_to(ROOT / "amc_env" / name)
    (tmp_path / "tests").mkdir()
    for name in (*" ".join(TESTS.values()).split(), *BESIDE):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    (tmp_path / "tests/conftest.py").write_text(CONFTEST)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted(set(TESTS.values())))
def test_the_tests_pass_without_a_mutant(tests: str, copy: Path) -> None:
    done = run_tests(copy, tests)
    assert done.returncode == 0, done.stdout


def test_every_mutant_can_be_made() -> None:
    for file, old, new in MUTANTS.values():
        assert (ROOT / file).read_text().count(old) == 1, f"{old!r} is not in {file}: write the mutant anew"
        assert new != old


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_turns_them_red(name: str, copy: Path) -> None:
    file, old, new = MUTANTS[name]
    path = copy / file
    path.write_text(path.read_text().replace(old, new))
    done = run_tests(copy, TESTS[file])
    assert done.returncode == 1, done.stdout
    (summary,) = re.findall(r"^FAILED .*", done.stdout, re.MULTILINE)
    assert not re.search(r"(Name|Type|Syntax|Import|Attribute)Error", summary), done.stdout
