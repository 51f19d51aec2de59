"""Imports run one way: from experiments to agents and amc_env, which do not import each other."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("amc_env", "agents", "experiments")
HEAVY = {"torch", "numpy", "gymnasium", "wandb", "stable_baselines3", "torchvision", "onnx", "onnxruntime"}

# Which of our packages, and which of other people's, each package may import.
MAY = {
    "amc_env": {"amc_env"},
    "agents": {"agents"},
    "experiments": {"amc_env", "agents", "experiments"},
}
NEVER = {
    "amc_env": {"hydra", "omegaconf", "wandb", "stable_baselines3", "rich", "cma", "onnx", "onnxruntime"},
    "agents": {"hydra", "omegaconf", "wandb", "rich", "torchvision"},
    "experiments": {"stable_baselines3"},
}
ONLY = {  # files that may import a library; the example shows a learner that is none of ours
    "stable_baselines3": {"agents/sb3.py", "experiments/examples/foreign.py"},
    "cma": {"agents/blackbox.py"},
}

# Inside of amc_env: what a file or a folder never imports, for these lie above it.
ABOVE = {
    "plan.py": {"compressors", "repair", "data", "evaluator", "env", "building", "budget", "cost", "metrics"},
    "cost.py": {"compressors", "repair", "data", "evaluator", "env", "building", "budget"},
    "metrics.py": {"compressors", "repair", "data", "evaluator", "env", "building", "budget", "graph"},
    "rewards.py": {"compressors", "repair", "data", "evaluator", "env", "building", "budget", "graph"},
    "observation.py": {"compressors", "repair", "data", "evaluator", "env", "building", "budget"},
    "graph": {"compressors", "repair", "data", "evaluator", "env", "building", "budget"},
    "coding": {"compressors", "repair", "data", "evaluator", "env", "building", "budget", "graph", "plan"},
    "compressors": {"data", "evaluator", "env", "building", "budget"},
    "repair": {"evaluator", "env", "building", "budget"},
    "budget.py": {"data", "repair", "evaluator", "env", "building"},
    "evaluator.py": {"env", "building", "budget", "repair"},
    "env.py": {"evaluator", "data", "repair", "building", "checkpoints", "zoo", "execution"},
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted name of each module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package):
    for path in files(package):
        tops = {name.partition(".")[0] for name in imports(path)}
        assert tops & set(PACKAGES) <= MAY[package], path
        assert not tops & NEVER[package] or str(path.relative_to(ROOT)) in ONLY["stable_baselines3"], path


@pytest.mark.parametrize("library", ONLY)
def test_a_library_with_one_door(library):
    doors = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in files(package)
        if library in {name.partition(".")[0] for name in imports(path)}
    }
    assert doors <= ONLY[library]


@pytest.mark.parametrize("lower", ABOVE)
def test_arrows_inside_of_amc_env(lower):
    at = ROOT / "amc_env" / lower
    for path in [at] if at.is_file() else sorted(at.rglob("*.py")):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("amc_env.")}
        assert not rooms & ABOVE[lower], path


def test_no_circle_in_amc_env():
    """Every module can be imported after all that it imports."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files("amc_env")}
    reads = {name: set(imports(path)) & modules.keys() - {name} for name, path in modules.items()}
    while free := [name for name, read in reads.items() if not read & reads.keys()]:
        for name in free:
            del reads[name]
    assert not reads


def test_who_knows_the_environment():
    users = {p.relative_to(ROOT).as_posix() for p in files("amc_env") if "amc_env.env" in set(imports(p))}
    assert users == {"amc_env/building.py", "amc_env/tabular.py"}


def test_packages_without_a_file_of_odds_and_ends():
    odd = {"utils", "common", "helpers", "misc"}
    assert not [
        path for package in PACKAGES for path in files(package) if odd & {path.stem, path.parent.name}
    ]


def test_imports_stand_at_the_top_but_for_ten():
    """Those within functions bring a package that takes seconds, or one of ours that lies above."""
    inside = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for package in PACKAGES
        for path in files(package)
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(inside) <= 10, inside


HYDRA = re.compile(r"config\.command\(")


def test_no_entry_point_imports_anything_heavy_before_its_config_is_checked():
    entries = [p.stem for p in files("experiments") if HYDRA.search(p.read_text())]
    assert "search" in entries
    code = f"import sys, {', '.join(f'experiments.{entry}' for entry in entries)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os.path as p", {"os.path"}),
        ("def f():\n    from amc_env import plan", {"amc_env", "amc_env.plan"}),
        ("from agents.search import Trial", {"agents.search", "agents.search.Trial"}),
    ],
)
def test_the_finder_itself(tmp_path, source, expected):
    (tmp_path / "m.py").write_text(source)
    assert set(imports(tmp_path / "m.py")) == expected
