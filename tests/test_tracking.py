"""What is logged, and that Weights & Biases stores it offline inside the run's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.episode import Episode
from agents.search import Trial
from experiments.recording import invocation
from experiments.recording.record import plain
from experiments.recording.tracking import METRICS, NoTracker, TrackingError, episode_metrics
from experiments.recording.wandb_tracker import WandbTracker

WANDB = Path(sys.executable).parent / "wandb"


def trial() -> Trial:
    """Four decisions, two of them bounded below what was asked."""
    bounds = [(0.9, 0.5, 0.5), (0.4, 0.5, 0.5), (0.4, 0.5, 0.375), (1.0, 0.25, 0.25)]
    infos = [dict(zip(("keep_asked", "keep_bound", "keep_applied"), row, strict=True)) for row in bounds]
    infos[-1] |= {
        "top1": 0.9, "top5": 0.99, "loss": 0.3, "agreement": 0.95, "kl": 0.01, "std_error": 0.0095,
        "n_images": 1000, "macs": 30, "params": 40,
    }  # fmt: skip
    ones = np.ones((4, 1), np.float32)
    episode = Episode(np.zeros((5, 11), np.float32), ones, ones, -0.1, tuple(infos))
    return Trial(7, episode, {"sigma": 0.5, "baseline": -0.2}, seconds=0.25)


def test_an_episodes_metrics_by_hand():
    metrics = episode_metrics(trial(), best_reward=-0.05, dense={"macs": 60, "params": 400})
    assert metrics == {
        "episode": 7, "reward": -0.1, "best_reward": -0.05, "top1": 0.9, "top5": 0.99, "loss": 0.3,
        "agreement": 0.95, "kl": 0.01, "std_error": 0.0095, "n_images": 1000, "macs": 30, "params": 40,
        "macs_share": 0.5, "params_share": 0.1, "bound_share": 0.5, "episode_seconds": 0.25,
        "agent/sigma": 0.5, "agent/baseline": -0.2,
    }  # fmt: skip
    assert set(metrics) <= set(METRICS)
    assert plain(metrics) == metrics


def test_no_tracker_is_a_tracker(tmp_path):
    with NoTracker(tmp_path, {}) as tracker:
        tracker.log({"episode": 0})
        tracker.summary({"best_reward": 1.0})
        tracker.artifact("plan", "plan", [], {})
    assert os.listdir(tmp_path) == []


def test_an_unknown_mode_is_told(tmp_path):
    with pytest.raises(TrackingError, match="'onlin' of W&B; there are offline, online"):
        WandbTracker(tmp_path, {}, mode="onlin")


RUN = """
import os, signal, sys, time
from pathlib import Path
from experiments.recording.wandb_tracker import WandbTracker

folder = Path(sys.argv[1])
before = dict(os.environ)
(folder / "plan.json").write_text("[1, 2]")
config = {"seed": 3, "agent": {"_target_": "agents.ddpg.DDPG", "sigma": 0.5}}
with WandbTracker(folder, config, group="three seeds", tags=["x"]) as tracker:
    for episode in range(5):
        tracker.log({"episode": episode, "reward": episode / 10, "agent/sigma": 0.5})
    tracker.log({"train/epoch": 0, "train/loss": 1.5})
    tracker.summary({"best_reward": 0.4, "amc": {"selection": 0.9}})
    tracker.artifact("plan", "plan", [folder / "plan.json"], {"hash": "abc"})
    if sys.argv[2] == "kill":
        time.sleep(2.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "fail":
        raise ZeroDivisionError
changed = set(os.environ.items()) ^ set(before.items())
assert {name for name, _ in changed} <= {"WANDB_SERVICE"}, changed
"""


def run(folder: Path, end: str) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """A run in a process of its own, with a home of its own, and the records that ``wandb leet`` reads."""
    (folder / "home").mkdir()
    (folder / "run").mkdir()
    environment = os.environ | {"HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder / "run"), end],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    read = subprocess.run(
        [WANDB, "leet", "inspect", "--json", str(next((folder / "run" / "wandb").glob("offline-run-*")))],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done, [json.loads(line) for line in read.stdout.splitlines()]


def test_an_offline_run_read_back(tmp_path):
    done, records = run(tmp_path, "well")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "home").rglob("*")) == []  # nothing outside of the run's folder
    assert sorted(os.listdir(tmp_path / "run")) == ["plan.json", "wandb"]

    facts = next(record["run"] for record in records if record["type"] == "run")
    config = {key: value for key, value in facts["config"]["update"].items() if key != "_wandb"}
    assert config == {"seed": 3, "agent": {"_target_": "agents.ddpg.DDPG", "sigma": 0.5}}
    assert facts["display_name"] == "run"
    assert (facts["project"], facts["run_group"], facts["tags"]) == ("amc-rl", "three seeds", ["x", "DDPG"])

    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    assert rows[:5] == [{"episode": e, "reward": e / 10, "agent/sigma": 0.5} for e in range(5)]
    assert rows[5:] == [{"train/epoch": 0, "train/loss": 1.5}]

    summary: dict = {}
    for record in records:
        summary |= record.get("summary", {}).get("update", {})
    assert summary["best_reward"] == 0.4
    assert summary["amc"] == {"selection": 0.9}

    artifact = next(record["artifact"] for record in records if record["type"] == "artifact")
    assert (artifact["name"], artifact["type"]) == ("plan", "plan")
    assert json.loads(artifact["metadata"]) == {"hash": "abc"}
    assert [entry["path"] for entry in artifact["manifest"]["contents"]] == ["plan.json"]
    assert next(record["exit"] for record in records if record["type"] == "exit").get("exit_code", 0) == 0


def test_a_run_that_fails_is_finished_as_failed(tmp_path):
    done, records = run(tmp_path, "fail")
    assert "ZeroDivisionError" in done.stderr
    assert next(record["exit"] for record in records if record["type"] == "exit")["exit_code"] == 1


def test_a_killed_run_has_what_was_logged_more_than_a_second_ago(tmp_path):
    _, records = run(tmp_path, "kill")
    assert sum(record["type"] == "history" for record in records) == 6


def test_a_fine_tuning_is_named_after_its_search(tmp_path: Path) -> None:
    assert invocation.name(tmp_path / "half" / "finetune-20-0", {"run": ".."}) == "half-finetune-20-0"
    assert invocation.name(tmp_path / "half", {"seed": 0}) == "half"


def test_an_experiment_within_another_budget_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "model": {"name": "net"}, "data": {"name": "digits"},
        "protocol": {"resource": "macs", "target": 0.3, "reward": "error"},
    }  # fmt: skip
    for words, wanted in (
        (["seed=1"], "digits"),
        (["protocol=flops_30"], "digits-macs-0.3-error"),
        (["++protocol.target=0.3"], "digits-macs-0.3-error"),
    ):
        job = {"choices": {"experiment": "digits"}, "overrides": words}
        monkeypatch.setattr(invocation, "hydra_job", lambda job=job: job)
        assert invocation.group(config) == wanted
