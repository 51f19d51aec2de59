"""Imports run one way: from experiments to agents and amc_env, which do not import each other."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
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
}
DOORS = {  # the files that import a library; the example shows a learner that is none of ours
    "stable_baselines3": {"agents/sb3.py", "experiments/examples/foreign.py"},
    "cma": {"agents/blackbox.py"},
    "botorch": {"agents/botorch.py"},
    "wandb": {"experiments/analysis/dashboard.py", "experiments/recording/wandb_tracker.py"},
    "trackio": {"experiments/recording/trackio_tracker.py"},
    "optuna": {"experiments/searching/tune.py"},
    "torch_pruning": {"experiments/searching/one_shot.py"},
    "onnx": {"experiments/delivery/slicing.py"},
    "onnxruntime": {"experiments/delivery/probes.py", "experiments/delivery/runtimes.py"},
    "torchvision": {
        "amc_env/data/sources.py",
        "experiments/delivery/picture.py",
        "experiments/examples/detection.py",
    },
}

# Inside of a package: all that a file or a folder imports of the others there, no more and no less.
BELOW = {
    "amc_env/actions.py": "",
    "amc_env/metrics.py": "",
    "amc_env/plan.py": "checks files graph",
    "amc_env/cost.py": "graph",
    "amc_env/rewards.py": "metrics",
    "amc_env/observation.py": "cost graph",
    "amc_env/graph": "checks execution",
    "amc_env/coding": "files",
    "amc_env/zoo": "checks execution functions",
    "amc_env/data": "checks execution files graph tensor_files",
    "amc_env/compressors": "checks coding conditions cost execution graph latency plan repair",
    "amc_env/repair": "compressors cost data execution files graph tensor_files",
    "amc_env/budget.py": "compressors cost",
    "amc_env/evaluator.py": "compressors data execution graph metrics plan",
    "amc_env/task.py": "compressors cost data evaluator graph plan repair scoring",
    "amc_env/env.py": "actions budget checks compressors cost metrics observation plan render rewards",
    "experiments/recording": "",
    "experiments/cli": "recording",
    "experiments/benchmarks": "analysis recording",
    "experiments/analysis": "benchmarks cli recording",
    "experiments/training": "analysis cli recording",
    "experiments/delivery": "analysis cli recording training",
    "experiments/searching": "analysis cli delivery recording training",
    "experiments/examples": "analysis recording searching",
}

# Imports within functions: of packages that take seconds or may be missing, and of ours that lie above.
INSIDE = {
    ("agents/blackbox.py", "cma"),
    ("agents/botorch.py", "botorch"),
    ("agents/botorch.py", "gpytorch.mlls"),
    ("amc_env/data/sources.py", "torchvision"),
    ("amc_env/data/splits.py", "sklearn.datasets"),
    ("experiments/cli/exits.py", "experiments.recording.lock"),
    ("experiments/cli/plugins/hydra_plugins/amc_rl.py", "experiments.cli"),
    ("experiments/cli/plugins/hydra_plugins/amc_rl.py", "hydra.core.plugins"),
    ("experiments/searching/one_shot.py", "torch_pruning"),
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted name of each module that a file imports, wherever in it."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
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
        own = {library for library, doors in DOORS.items() if str(path.relative_to(ROOT)) in doors}
        assert tops & set(PACKAGES) <= MAY[package], path
        assert not tops & (NEVER.get(package, set()) - own), path


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_these_doors(library):
    assert DOORS[library] == {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in files(package)
        if library in {name.partition(".")[0] for name in imports(path)}
    }


@pytest.mark.parametrize("lower", BELOW)
def test_arrows_inside_of_a_package(lower):
    at, package = ROOT / lower, Path(lower).parts[0]
    found = {
        name.split(".")[1]
        for path in ([at] if at.is_file() else at.rglob("*.py"))
        for name in imports(path)
        if name.startswith(f"{package}.")
    }
    assert found - {at.stem} == set(BELOW[lower].split())


def test_commands_import_the_command_line_alone():
    for path in sorted((ROOT / "experiments").glob("*.py")):
        found = {name for name in imports(path) if name.partition(".")[0] in PACKAGES}
        assert {name.split(".")[1] for name in found if "." in name} <= {"cli"}, path


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


def test_imports_stand_at_the_top_but_for_these():
    inside = {
        (str(path.relative_to(ROOT)), getattr(node, "module", None) or node.names[0].name)
        for package in PACKAGES
        for path in files(package)
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert inside == INSIDE


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
