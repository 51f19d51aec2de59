"""The main job on digits, from the configuration to the exported network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clockless import without_clock
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from amc_env import checkpoints as weights
from amc_env.card import CheckpointError
from amc_env.data.splits import load
from amc_env.evaluator import accuracy
from amc_env.plan import Plan
from experiments.cli.config import CONF, ConfigError
from experiments.cli.sweep import Run
from experiments.delivery import evaluate
from experiments.delivery.runtimes import RuntimeFileError
from experiments.recording import plans, state
from experiments.recording.record import RecordError, RunRecord
from experiments.recording.tracking import NoTracker
from experiments.searching.search import search
from experiments.training import finetune
from experiments.training.loop import DivergedError


def config(folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["experiment=digits", "episodes=6", f"output={folder}", *overrides])


def rows(folder: Path) -> str:
    return json.dumps(without_clock(RunRecord.read(folder).rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "run"
    search(config(folder, "finetune.epochs=1"), folder)
    return folder


def test_a_fine_tuning_that_diverges_says_how_to_go_on_without_a_search(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(DivergedError, match=rf"experiments\.finetune run={folder} recipe\.lr=100"):
        search(config(folder, "finetune.epochs=1", "finetune.lr=1000", "episodes=2", "agent=random"), folder)
    assert plans.of_run(folder).hash


def test_the_record_tells_how_many_calibration_images_there_were(finished: Path) -> None:
    read = RunRecord.read(finished).content["results"]["calibration"]
    assert read == {"asked": 2000, "moments": 200, "passed": 200}


def test_the_files_hold_the_network_that_the_record_describes(finished: Path) -> None:
    record = RunRecord.read(finished)
    row = record.content["results"]["table"]["found, tuned"]
    network, card = weights.load(finished / "compressed")
    assert row["params"] == sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *card.shape))
    assert counter.get_total_flops() // 2 == row["macs"]
    assert (
        row["macs"]
        <= record.content["config"]["protocol"]["target"]
        * record.content["results"]["table"]["dense"]["macs"]
    )
    assert accuracy(network, load("digits"), "test") == row["test"] == card.accuracy["test"]
    assert record.content["results"]["onnx_difference"] < 1e-4
    assert (finished / "compressed.onnx").exists()


def test_the_confirmed_plan_is_the_best_of_its_candidates(finished: Path) -> None:
    content = RunRecord.read(finished).content
    tried = content["results"]["candidates"]
    assert content["best"]["selection"]["top1"] == max(candidate["selection"] for candidate in tried)
    assert plans.of_run(finished).to_dict() == content["best"]["plan"]


def test_same_seed_same_record_another_seed_another(finished: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    search(config(again, "finetune.epochs=1", "deliver=false"), again)
    search(config(other, "seed=1", "deliver=false"), other)
    searched = [row for row in RunRecord.read(finished).rows if "episode" in row]
    assert rows(again) == json.dumps(without_clock(searched))
    assert rows(other) != rows(again)


@pytest.mark.parametrize(
    "agent",
    [
        ["agent=ddpg_elites", "agent.hidden=8", "agent.learn_after=2", "agent.batch=4"],
        ["agent=cmaes", "agent.population=3"],  # killed in its second generation
        ["agent=random"],
    ],
)
def test_a_killed_search_ends_with_the_record_of_one_that_was_not(
    agent: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    asked = [*agent, "deliver=false", "save_every=2"]
    search(config(whole, *asked), whole)
    add = RunRecord.add

    def die(self: RunRecord, **row: object) -> None:
        add(self, **row)
        if row["episode"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", die)
    with pytest.raises(KeyboardInterrupt):
        search(config(torn, *asked), torn)
    interrupted = RunRecord.read(torn)
    assert state.load(interrupted, 2).episodes == 4
    assert interrupted.content["status"] == "interrupted"
    assert len(interrupted.rows) == 5
    assert Plan.read(torn / plans.PLAN).to_dict() == interrupted.content["best"]["plan"]
    with pytest.raises(RecordError, match="has no plan yet: let the search end"):  # none is confirmed
        plans.of_run(torn)

    monkeypatch.setattr(RunRecord, "add", add)
    search(config(torn, *asked), torn)
    assert rows(torn) == rows(whole)
    assert RunRecord.read(torn).content["best"] == RunRecord.read(whole).content["best"]


def test_states_at_other_episodes_are_another_configuration_not_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "save", die)
    with pytest.raises(KeyboardInterrupt):
        search(config(tmp_path, "agent=random", "deliver=false", "save_every=4"), tmp_path)
    with pytest.raises(RecordError, match="save_every was 4, is 1"):
        search(config(tmp_path, "agent=random", "deliver=false", "save_every=1"), tmp_path)


def test_a_state_is_saved_after_the_last_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill during the fine-tuning plays no episode again."""
    saved: list[int] = []
    monkeypatch.setattr(state, "save", lambda record, agent: saved.append(len(record.rows)))
    search(config(tmp_path, "agent=random", "deliver=false", "save_every=20"), tmp_path)
    assert saved == [len(RunRecord.read(tmp_path).rows)]


class Counter:
    def __init__(self, value: int) -> None:
        self.value = value

    def state_dict(self) -> dict[str, object]:
        return {"value": self.value}


def test_a_damaged_state_falls_back_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RunRecord.create(tmp_path, {}, seeds={})
    assert state.load(record, 1) is None
    for value in (1, 2):
        record.add(reward=0.0)
        state.save(record, Counter(value))
    assert state.load(record, 1) == state.State(2, {"value": 2})
    (tmp_path / state.STATE).write_bytes(b"torn")
    assert state.load(record, 1) == state.State(1, {"value": 1})
    assert "damaged" in capsys.readouterr().out
    assert state.load(record, 1) == state.State(1, {"value": 1})  # it has taken the damaged one's place
    assert "damaged" not in capsys.readouterr().out
    (tmp_path / state.STATE).unlink()
    (tmp_path / "search.state.previous").write_bytes(b"torn as well")
    with pytest.raises(RecordError, match=r"previous is damaged: .*; nothing is changed"):
        state.load(record, 1)
    (tmp_path / "search.state.previous").unlink()
    with pytest.raises(RecordError, match=r"2 episodes and no search\.state"):
        state.load(record, 1)


def test_a_state_of_another_run_or_of_other_rows_is_refused(tmp_path: Path) -> None:
    records = [RunRecord.create(tmp_path / name, {"seed": name}, seeds={}) for name in "ab"]
    for record in records:
        record.add(reward=0.0)
        state.save(record, Counter(0))
    (tmp_path / "a" / state.STATE).write_bytes((tmp_path / "b" / state.STATE).read_bytes())
    with pytest.raises(RecordError, match="is of other rows than those of"):
        state.load(records[0], 1)
    assert state.load(records[1], 1) is not None


def test_a_finished_search_is_not_run_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "record.json").read_bytes()
    search(config(finished, "finetune.epochs=1"), finished)
    assert "nothing to do" in capsys.readouterr().out
    assert (finished / "record.json").read_bytes() == before


def test_a_finished_search_without_its_network_makes_it_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "compressed.onnx").unlink()
    search(config(folder, "finetune.epochs=1"), folder)
    assert "has no compressed.onnx any more: making it again" in capsys.readouterr().out
    records = [RunRecord.read(each) for each in (finished, folder)]
    assert without_clock(records[0].content) == without_clock(records[1].content)
    assert without_clock(records[0].rows) == without_clock(records[1].rows)
    assert not records[1].missing


def test_a_sweep_knows_finished_fine_tunings_and_makes_lost_networks_again(
    finished: Path, composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    words = [f"run={finished}", "recipe.epochs=1", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=tuned"]
    run = Run.of(words, composed("finetune", *words, full=True))
    network = run.folder / "compressed.safetensors"
    assert not run.finished
    finetune.run(run.config, run.folder)
    assert run.finished
    written = network.read_bytes()
    network.unlink()
    assert not run.finished
    finetune.run(run.config, run.folder)
    assert run.finished
    assert network.read_bytes() == written
    (run.folder / finetune.STATE).touch()  # as a kill after the end leaves it
    finetune.run(run.config, run.folder)
    assert not (run.folder / finetune.STATE).exists()


def right(network, batches):
    hits = torch.cat([network(images).argmax(1) == labels for images, labels in batches])
    return hits.float().mean().item()


@pytest.mark.parametrize("asked", [".onnx", "", ".safetensors", "metric"])
def test_what_was_trained_on_is_not_evaluated_on(asked, finished, composed, tmp_path):
    of = [f"checkpoint={finished}/compressed{asked if asked != 'metric' else ''}", "data=digits"]
    of += [f"metric={__name__}:right"] * (asked == "metric")
    with pytest.raises(CheckpointError, match=r"splits of data\.seed=0"):
        evaluate.run(composed("evaluate", *of, "split=selection", "data.seed=3"), tmp_path)


def test_a_metric_of_ones_own_is_not_taken_on_other_images(finished, composed, tmp_path):
    of = [f"checkpoint={finished}/compressed", f"metric={__name__}:right"]
    evaluate.run(composed("evaluate", *of, "data=digits"), tmp_path)
    with pytest.raises(RuntimeFileError, match=r"takes images of shape \(1, 8, 8\)"):
        evaluate.run(composed("evaluate", *of, "data=fashion_mnist"), tmp_path)
    exported = composed("evaluate", f"checkpoint={finished}/compressed.onnx", of[1], "data=digits")
    with pytest.raises(RuntimeFileError, match=r"give checkpoint=\S+/compressed$"):
        evaluate.run(exported, tmp_path)


def test_a_fine_tuning_goes_on_however_its_run_is_spelled(finished, composed, tmp_path, capsys, monkeypatch):
    told: dict[str, float] = {}
    monkeypatch.setattr(NoTracker, "summary", lambda tracker, values: told.update(values))
    monkeypatch.chdir(finished.parent)
    for spelled in (finished.name, f"{finished.name}/", str(finished)):
        finetune.run(composed("finetune", f"run={spelled}", "recipe.epochs=1"), tmp_path / "again")
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert told.keys() == {"accuracy/selection", "accuracy/test"}


@pytest.mark.parametrize("wrong", ["episodes=0", "episodes=-3", "confirm=0", "save_every=0"])
def test_counts_below_one_are_refused_before_anything_is_written(wrong: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="at least 1"):
        search(config(folder, wrong), folder)
    assert not folder.exists()


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    stem = weights.shipped("plain20-fashion_mnist")
    asked = config(tmp_path / "run", "model=plain20", f"model.checkpoint={stem}")
    with pytest.raises(CheckpointError, match=r"\(1, 28, 28\).*digits are \(1, 8, 8\).*data=fashion_mnist"):
        search(asked, tmp_path / "run")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    stem = weights.shipped("plain20-fashion_mnist")
    with pytest.raises(CheckpointError, match=r"holds a plain20, asked for model\.name=digits_cnn"):
        search(config(tmp_path / "run", f"model.checkpoint={stem}"), tmp_path / "run")


@pytest.mark.parametrize("wrong", ["protocol.resource=joules", "env.scale=log", "compressor.floor=0"])
def test_a_setting_that_the_environment_refuses_leaves_no_folder(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{wrong.partition('=')[0]} is "):
        search(config(tmp_path / "run", wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compressor", "protocol"),
    [
        ("fine_grained", "params_50"),
        ("weight_sharing", "bits_10"),
        ("low_rank", "flops_50"),
        ("joint", "bits_10"),
    ],
)
def test_the_other_compressors_are_searched_tuned_and_delivered(
    tmp_path: Path, compressor: str, protocol: str
) -> None:
    settings = [f"compressor={compressor}", f"protocol={protocol}", "finetune.epochs=1", "episodes=4"]
    small = ["compressor.calibration_images=60", "confirm=2", "env.reward_images=50"]
    search(config(tmp_path, *settings, *small), tmp_path)
    row = RunRecord.read(tmp_path).content["results"]["table"]["found, tuned"]
    network, _ = weights.load(tmp_path / "compressed")
    assert accuracy(network, load("digits"), "test") == row["test"]
    held = [value for value in network.parameters() if value.ndim > 1]
    if compressor == "fine_grained":
        assert sum(int(value.count_nonzero()) for value in held) < 0.55 * sum(map(torch.numel, held))
    if compressor == "weight_sharing":
        assert all(len(value.unique()) <= 256 for value in held)
    if compressor == "joint":
        assert row["params"] < RunRecord.read(tmp_path).content["results"]["table"]["dense"]["params"]
        assert all(len(value.unique()) <= 256 or len(value.unique()) == value.numel() for value in held)
    if compressor in ("low_rank", "joint"):
        assert sum(p.numel() for p in network.parameters()) == row["params"]
