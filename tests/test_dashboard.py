"""The dashboard names what runs log; offline runs are uploaded in order; Trackio takes the same calls."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.analysis import dashboard, outcome
from experiments.analysis.dashboard import DashboardError, named, offline, sync
from experiments.recording import invocation
from experiments.recording.record import RunRecord
from experiments.recording.tracking import METRICS, NoTracker
from experiments.searching.search import search

CONFIG = {
    "model": {"name": "plain20"}, "data": {"name": "digits"},
    "protocol": {"resource": "macs", "target": 0.5, "reward": "error"},
    "agent": {"_target_": "agents.ddpg.DDPG"},
}  # fmt: skip


@pytest.mark.slow
def test_the_dashboard_names_only_what_a_run_logs(composed, tmp_path, cache, monkeypatch):
    names: set[str] = set()
    kinds: dict[str, list[str]] = {}

    def artifact(tracker, name, kind, files, facts):
        kinds[kind] = [path.name for path in files if path.exists()]

    monkeypatch.setattr(NoTracker, "log", lambda tracker, metrics: names.update(metrics))
    monkeypatch.setattr(NoTracker, "summary", lambda tracker, values: names.update(values))
    monkeypatch.setattr(NoTracker, "artifact", artifact)
    cfg = composed("config", "experiment=digits", "agent=ddpg_paper", "agent.warmup=2", "agent.learn_after=2",
                   "env.scale=absolute", "episodes=4", "confirm=1", "finetune.epochs=1")  # fmt: skip
    search(cfg, tmp_path / "run")
    assert named() <= names
    assert kinds["plan"] == ["plan.json"]
    assert "compressed.onnx" in kinds["model"]
    assert kinds["report"] == ["networks.csv", "learning.png", "keep.png"]


def test_charts_name_known_metrics():
    charts = {**dashboard.SEARCH, **dashboard.AGENT, **dashboard.TRAINING}
    assert {name for names in charts.values() for name in names} <= METRICS.keys()


def test_workspace_and_report_are_valid_without_a_network():
    made = dashboard.workspace("me", "amc-rl")
    assert made._to_model().entity == "me"
    assert [section.name for section in made.sections] == ["Search", "Agent", "Fine-tuning", "Results"]
    report = dashboard.report("me", "amc-rl")
    grids = [block for block in report.blocks if hasattr(block, "panels")]
    assert sum(len(grid.panels) for grid in grids) == 14
    for panel in (panel for grid in grids for panel in grid.panels):
        assert panel._to_model() is not None


def test_the_found_network_of_older_runs_is_shown_too():
    (chart,) = dashboard.bars({"T": ["found/test", "found, tuned/test", "best/reward"]})
    assert chart.metrics == ["found/test", "found, tuned/test", "best/reward", "AMC/test", "AMC, tuned/test"]


def test_nothing_is_sent_unless_asked(capsys):
    dashboard.main(SimpleNamespace(sync=None, entity=None, project="p", push=False), Path())
    assert "push=true sends them" in capsys.readouterr().out


def test_offline_runs_are_uploaded_the_oldest_first_and_once(tmp_path):
    with pytest.raises(DashboardError, match="no offline run of W&B in"):
        sync(tmp_path)
    for run in ("b/wandb/offline-run-20260101_000002-y", "a/wandb/offline-run-20260101_000003-z",
                "c/wandb/offline-run-20260101_000001-x"):  # fmt: skip
        (tmp_path / run).mkdir(parents=True)
    taken: list[str] = []

    def upload(run: Path) -> int:
        taken.append(run.name[-1])
        (run / f"{run.name}.wandb.synced").touch()
        return int(run.name.endswith("y"))

    with pytest.raises(DashboardError, match="ended with 1: is there a network, and a login"):
        sync(tmp_path, upload)
    assert taken == ["x", "y"]
    assert [run.name[-1] for run in sync(tmp_path, upload)] == ["z"]
    assert [run.name[-1] for run in offline(tmp_path)] == ["x", "y", "z"]
    assert [run.name[-1] for run in offline(tmp_path / "b/wandb")] == ["y"]


def test_a_search_that_was_resumed_is_uploaded_once_and_whole(tmp_path):
    for run in ("a/wandb/offline-run-20260101_000001-x", "a/wandb/offline-run-20260101_000003-z",
                "b/wandb/offline-run-20260101_000002-y"):  # fmt: skip
        (tmp_path / run).mkdir(parents=True)
    assert [run.name[-1] for run in offline(tmp_path)] == ["y", "z"]  # z logged all rows of x again


def test_runs_are_grouped_by_what_they_are_compared_at():
    own = CONFIG | {"model": {"name": "import", "options": {"target": "my_net:build"}}}
    bounded = {"resource": "macs", "target": 0.5, "reward": "kl", "limits": {"params": 0.4}}
    assert invocation.group(own | {"protocol": bounded}) == "my_net:build-digits-macs-0.5-params-0.4-kl"
    assert invocation.group(CONFIG) == "plain20-digits-macs-0.5-error"
    assert invocation.agent(CONFIG) == "DDPG"
    assert invocation.group({"recipe": 1}) is invocation.agent({"recipe": 1}) is None


def test_what_a_search_leaves_is_a_table_and_two_pictures(tmp_path):
    config = CONFIG | {"seed": 0, "finetune": {"epochs": 1}, "deliver": True}
    record = RunRecord.create(tmp_path / "run", config, seeds={})
    record.add(reward=-0.5, episode_seconds=1.0)
    row = {"macs": 1, "params": 2, "file_bytes": 3, "selection": 0.5, "test": 0.25, "latency_ms": {}}
    record.update(
        best={"counts": [4], "selection": {"top1": 0.5}},
        results={"groups": [{"layer": "c", "size": 8}], "table": {"dense": row, "found": row}},
    )
    made = outcome.write(record)
    assert [path.name for path in made] == ["networks.csv", "learning.png", "keep.png"]
    assert made[0].read_text().splitlines()[2] == "found,1,2,3,0.5,0.25"


TRACKIO = """
import sys
from pathlib import Path
from experiments.recording.trackio_tracker import TrackioTracker
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True, parents=True)
(folder / "plan.json").write_text("1")
with TrackioTracker(folder, {"seed": 1}) as tracker:
    for episode in range(3):
        tracker.log({"episode": episode, "agent/sigma": 0.5})
    tracker.summary({"best_reward": 0.5, "text": "left out"})
    tracker.artifact("plan", "plan", [folder / "plan.json"], {"hash": "a"})
"""


@pytest.mark.slow
def test_trackio_keeps_the_same_calls_in_one_file(tmp_path):
    pytest.importorskip("trackio")
    root = Path(__file__).resolve().parents[1]
    environment = {k: v for k, v in os.environ.items() if k != "TRACKIO_DIR"} | {"PYTHONPATH": str(root)}
    for folder in ("run", "run", "other/run"):  # the second time as a resumed run
        command = [sys.executable, "-c", TRACKIO, folder]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    read = "import sqlite3; print(*sqlite3.connect(sys.argv[1]).execute('select metrics from metrics'))"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; {read}", str(tmp_path / "runs/trackio/amc-rl.db")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.count("agent/sigma") == 6  # of each folder those of the last process alone
    assert "final/best_reward" in found
    assert "left out" not in found
