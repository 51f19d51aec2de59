"""`experiments.pretrain`: killed and finished trainings, what they leave, and what is refused."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clockless import without_clock
from PIL import Image
from test_training import stripes

from amc_env import checkpoints as weights
from amc_env.data.own import OwnData
from amc_env.data.splits import DataError, load
from amc_env.zoo import build
from experiments.cli.datasets import refuse_unlabelled
from experiments.cli.identity import images_of
from experiments.recording.record import RecordError, RunRecord
from experiments.training.loop import read_history
from experiments.training.pretrain import STATE, pretrain, run, stem

DIGITS = ("model=digits_cnn", "data=digits", "recipe.epochs=3", "recipe.bfloat16=false", "tracking=none")
KILLED = """
import os, signal
from experiments.training.loop import _Saved as Saved
write = Saved.write

def write_and_die(saved, history):
    write(saved, history)
    if len(history) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Saved.write = write_and_die
from experiments.pretrain import main
main()
"""


@pytest.mark.slow
def test_a_killed_pretraining_ends_as_one_that_was_not(composed, tmp_path):
    """The command, killed by the system after its second epoch, then called again in the same folder."""
    cfg = composed("pretrain", *DIGITS)
    whole = pretrain(cfg, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, *DIGITS, f"output={tmp_path / 'broken'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    of = f"{RunRecord.read(tmp_path / 'broken').chain[0]}/{STATE}"
    assert len(read_history(tmp_path / "broken" / STATE, of)) == 2
    resumed = pretrain(cfg, tmp_path / "broken")
    assert resumed == whole
    records = [RunRecord.read(tmp_path / name) for name in ("whole", "broken")]
    assert without_clock(records[0].rows) == without_clock(records[1].rows)
    assert without_clock(records[0].content) == without_clock(records[1].content)
    assert [row["train/epoch"] for row in records[1].rows] == [0, 1, 2]


def test_a_finished_training_is_not_written_again(composed, tmp_path, capsys):
    cfg = composed("pretrain", *DIGITS)
    card = pretrain(cfg, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert pretrain(cfg, tmp_path) == card
    assert (
        "is finished: nothing to do; choose another output=FOLDER to train again" in capsys.readouterr().out
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    stem(cfg, tmp_path).with_suffix(".safetensors").unlink()
    assert replace(pretrain(cfg, tmp_path), commit=card.commit) == card  # its weights come from the state


def test_what_pretraining_leaves(composed, tmp_path):
    cfg = composed("pretrain", *DIGITS)
    card = pretrain(cfg, tmp_path)
    model, read = weights.load(stem(cfg, tmp_path))
    assert read == card
    assert (card.architecture, card.data, card.shape, card.classes) == ("digits_cnn", "digits", (1, 8, 8), 10)
    assert set(card.accuracy) == {"train", "calibration", "reward", "selection", "test"}
    assert card.recipe["epochs"] == 3
    record = RunRecord.read(tmp_path)
    known = {"accuracy": card.accuracy, "sha256": card.sha256, "copy": ""}
    found = record.content["results"]
    assert found == known | {"data": images_of(load(card.data, seed=0)), "labels": found["labels"]}
    assert card.images == found["data"]
    assert record.content["status"] == "finished"
    assert card.accuracy["selection"] == record.rows[-1]["train/selection"]
    dense = build("digits_cnn", classes=10, in_channels=1)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in dense.named_parameters()
    }


def test_the_checkpoint_is_printed_as_a_shell_takes_it(composed, tmp_path, capsys):
    cfg = composed("pretrain", *DIGITS, "recipe.epochs=1")
    run(cfg, tmp_path / "my nets")
    (word,) = shlex.split(capsys.readouterr().out.rpartition("use: ")[2])
    assert word == f"model.checkpoint={stem(cfg, tmp_path / 'my nets')}"


def test_pretraining_says_what_is_wrong_before_it_starts(composed, tmp_path):
    pretrain(composed("pretrain", *DIGITS, "recipe.epochs=1"), tmp_path)
    with pytest.raises(RecordError, match=r"recipe\.epochs was 1, is 2"):
        pretrain(composed("pretrain", *DIGITS, "recipe.epochs=2"), tmp_path)
    with pytest.raises(ValueError, match="epochs is 0, it is at least 1"):
        pretrain(composed("pretrain", *DIGITS, "recipe.epochs=0"), tmp_path / "new")
    with pytest.raises(ValueError, match="there is no model 'plain21'"):
        pretrain(composed("pretrain", *DIGITS, "model.name=plain21"), tmp_path / "new")
    with pytest.raises(ValueError, match="cannot be loaded"):
        pretrain(composed("pretrain", *DIGITS, "tracking._target_=nowhere.Tracker"), tmp_path / "new")
    assert not Path(tmp_path / "new" / STATE).exists()


@pytest.mark.parametrize(
    ("made", "message"), [("own", "has no class labels"), ("photos", "in folders of 1000")]
)
def test_data_without_labels_are_nothing_to_train_on(tmp_path, made, message):
    data = replace(stripes(), name="photos", classes=1000)
    if made == "own":
        pairs = list(stripes().batches("train", 8))
        data = OwnData("mine", 2, dict.fromkeys(("calibration", "reward", "selection", "test"), pairs))
    else:
        Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match=message):
        refuse_unlabelled(data, str(tmp_path))
