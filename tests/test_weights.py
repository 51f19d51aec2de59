"""Checkpoints are read back bit for bit, and every kind of damage is named."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import rewriting
import safetensors.torch
import torch

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card, CheckpointError
from amc_env.files import seal

CARD = Card(
    architecture="digits_cnn", classes=10, in_channels=1, data="digits", shape=(1, 8, 8), seed=3,
    commit="abc", recipe={"epochs": 2, "lr": 0.1}, accuracy={"selection": 0.5}, note="a test",
)  # fmt: skip


def network(seed=1, **options):
    return zoo.build(options.pop("name", "digits_cnn"), classes=10, in_channels=1, seed=seed, **options)


@pytest.fixture
def stem(tmp_path):
    stem = tmp_path / "new" / "digits_cnn-w0.5"  # a folder to be made, a dot in the name
    weights.save(stem, network(), CARD)
    return stem


def error_of(stem):
    with pytest.raises(CheckpointError) as caught:
        weights.load(stem)
    return str(caught.value)


def change(stem, **entries):
    rewriting.change(weights.files(stem)[1], **entries)


def test_what_is_saved_comes_back(stem):
    model, card = weights.load(stem)
    assert sorted(path.name for path in stem.parent.iterdir()) == [
        f"{stem.name}.json",
        f"{stem.name}.safetensors",
    ]
    assert replace(card, sha256="") == CARD
    assert not model.training
    for name, value in network().state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_same_weights_give_the_same_bytes(stem, tmp_path):
    model = network().to(memory_format=torch.channels_last)
    weights.save(tmp_path / "again", model, CARD)
    for first, second in zip(weights.files(stem), weights.files(tmp_path / "again"), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_options_are_part_of_the_architecture(tmp_path):
    card = replace(CARD, architecture="mobilenet_v2", options={"width": 0.25})
    weights.save(tmp_path / "m", network(name="mobilenet_v2", width=0.25), card)
    model, loaded = weights.load(tmp_path / "m")
    assert loaded.options == {"width": 0.25}
    assert model.classifier.in_features == 1280


def test_missing_files_say_which_and_how_to_get_it(stem, tmp_path):
    assert "nothing.json does not exist; train it: python -m experiments.pretrain" in error_of(
        tmp_path / "nothing"
    )
    weights.files(stem)[0].unlink()
    message = error_of(stem)
    assert "w0.5.safetensors does not exist" in message
    assert "model=digits_cnn data=digits" in message


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights(stem, size):
    path = weights.files(stem)[0]
    path.write_bytes(path.read_bytes()[:size])
    message = error_of(stem)
    assert str(path) in message
    assert "truncated" in message


def test_tampered_weights(stem):
    path = weights.files(stem)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "not the file that its card describes" in error_of(stem)


def test_a_file_that_is_not_safetensors_even_if_its_card_agrees(stem):
    weights.files(stem)[0].write_bytes(b"\x02\0\0\0\0\0\0\0[]garbage")
    change(stem, sha256="b1946ac9")
    assert "not the file that its card describes" in error_of(stem)
    change(stem, sha256=hashlib.sha256(weights.files(stem)[0].read_bytes()).hexdigest())
    assert "not a safetensors file" in error_of(stem)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds a list, not an object"),
        ("{}", "has no digest"),
        (json.dumps(seal({})), "its format is None, this version reads 1"),
        (json.dumps(seal({"format": 1})), "missing ['accuracy'"),
    ],
)
def test_a_card_that_is_no_card(stem, text, words):
    weights.files(stem)[1].write_text(text)
    assert words in error_of(stem)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format": 2}, "its format is 2"),
        ({"classes": "10"}, "classes is '10', not of type int"),
        ({"seed": True}, "seed is True, not of type int"),
        ({"shape": [1, 8]}, "shape is [1, 8]"),
        ({"accuracy": {"test": 93.0}}, "not numbers in [0, 1]"),
        ({"more": 1}, "unknown ['more']"),
        ({"architecture": "plain21"}, "did you mean plain20"),
        ({"options": {"depth": 8}}, "no option 'depth'"),
        ({"options": {"classes": 8}}, "cannot be built"),
    ],
)
def test_a_card_with_a_wrong_entry(stem, entries, words):
    change(stem, **entries)
    assert words in error_of(stem)


def test_another_architecture_names_the_first_tensors_that_differ(stem):
    change(stem, architecture="plain20")
    message = error_of(stem)
    assert "of another architecture" in message
    assert "features.2.0.weight is [16, 16, 3, 3] in the network and [32, 16, 3, 3] in the file" in message
    assert message.endswith("; and 96 more")
    change(stem, architecture="digits_cnn", classes=9)
    assert "classifier.weight is [9, 64] in the network and [10, 64] in the file" in error_of(stem)


def test_a_tensor_too_many_or_too_few(tmp_path):
    model = network()
    model.register_buffer("extra", torch.zeros(2))
    weights.save(tmp_path / "extra", model, CARD)
    assert "extra is absent in the network and [2] in the file" in error_of(tmp_path / "extra")
    smaller = network()
    del smaller.classifier.bias
    weights.save(tmp_path / "smaller", smaller, CARD)
    assert "classifier.bias is [10] in the network and absent in the file" in error_of(tmp_path / "smaller")


def test_weights_that_are_not_finite_are_neither_written_nor_read(stem):
    before = [path.read_bytes() for path in weights.files(stem)]
    model = network()
    with torch.no_grad():
        model.features[1][0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        CheckpointError, match=r"1 of 2304 numbers of features\.1\.0\.weight are NaN or infinite"
    ):
        weights.save(stem, model, CARD)
    assert [path.read_bytes() for path in weights.files(stem)] == before
    content = safetensors.torch.save({name: value.clone() for name, value in model.state_dict().items()})
    weights.files(stem)[0].write_bytes(content)
    change(stem, sha256=hashlib.sha256(content).hexdigest())
    assert "features.1.0.weight are NaN or infinite" in error_of(stem)


def test_a_users_own_network_is_loaded_into_what_they_built(stem):
    change(stem, architecture="import", options={"target": "os:abort"})
    message = error_of(stem)
    assert "os:abort" in message
    assert "restore(model, stem)" in message
    model = network(seed=9)
    card = weights.load_into(model, stem)
    assert card.options == {"target": "os:abort"}
    assert torch.equal(model.classifier.weight, network().classifier.weight)


def test_a_network_that_is_restored_is_a_copy(stem):
    """Fine-grained and shared weights have no plan in their card: the network has its dense form."""
    dense = network(seed=9).train()
    found, _ = weights.restore(dense, stem)
    assert torch.equal(found.classifier.weight, network().classifier.weight)
    assert torch.equal(dense.classifier.weight, network(seed=9).classifier.weight)
    assert (dense.training, found.training) == (True, False)


def test_a_state_that_is_not_all_tensors_is_refused(stem):
    class Counting(torch.nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(CheckpointError, match=r"0\._extra_state in the state of the network is a dict, and"):
        weights.save(stem, torch.nn.Sequential(Counting(2, 2)), CARD)


def test_a_lazy_network_is_refused_until_it_was_called(stem):
    lazy = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    for use in (weights.load_into, weights.restore):
        with pytest.raises(
            CheckpointError, match=r"0\.weight belongs to a lazy module .* call the network once"
        ):
            use(lazy, stem)
    with pytest.raises(CheckpointError, match="lazy module"):
        weights.save(stem.with_name("lazy"), lazy, CARD)
    lazy(torch.zeros(1, 1, 8, 8))
    weights.save(stem.with_name("lazy"), lazy, CARD)


def test_load_into_another_network_leaves_it_as_it_was(stem):
    model = zoo.build("plain20", classes=10, in_channels=1)
    with pytest.raises(CheckpointError, match="another architecture"):
        weights.load_into(model, stem)
    untouched = zoo.build("plain20", classes=10, in_channels=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))


def test_a_write_that_fails_leaves_the_old_checkpoint(stem, monkeypatch):
    before = [path.read_bytes() for path in weights.files(stem)]
    monkeypatch.setattr("os.fsync", full_after_one(os.fsync))
    with pytest.raises(
        CheckpointError, match="cannot be written: No space left on device; choose another folder"
    ):
        weights.save(stem, network(seed=2), CARD)
    assert [path.read_bytes() for path in weights.files(stem)] == before
    assert len(list(stem.parent.iterdir())) == 2


def full_after_one(sync):
    synced = []

    def fsync(descriptor):
        if synced:
            raise OSError(28, os.strerror(28))
        synced.append(descriptor)
        return sync(descriptor)

    return fsync


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        weights.save(tmp_path / "taken" / "stem", network(), CARD)


def test_a_shipped_checkpoint_that_is_not_there_lists_those_that_are(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    monkeypatch.setattr(weights, "SHIPPED", folder)
    with pytest.raises(
        CheckpointError, match=r"the folder has none; train one: python -m experiments\.pretrain"
    ):
        weights.shipped("plain20")
    weights.save(folder / "digits-w0.5", network(), CARD)
    with pytest.raises(CheckpointError, match=r"no checkpoint 'plain20' .* there are digits-w0\.5;"):
        weights.shipped("plain20")
    assert weights.load(weights.shipped("digits-w0.5"))[1].data == "digits"
