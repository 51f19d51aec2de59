"""Splits, checks of what is read, and image folders."""

import dataclasses
import hashlib
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amc_env import tensor_files
from amc_env.data import imagefolder
from amc_env.data.specs import SPECS, DataSpec
from amc_env.data.splits import (
    CACHE,
    SPLITS,
    DataError,
    cache_folder,
    check_raw,
    digest,
    load,
    read_raw,
    split_dataset,
)
from amc_env.data.tensors import from_tensors

TINY = DataSpec("tiny", 3, (1, 2, 2), (0.5,), (0.25,), (4, 5, 6), flip=False, sizes=(30, 8))


def tiny() -> dict[str, torch.Tensor]:
    """Images whose first pixel is their number, so that a split can be read off."""
    raw = {}
    for part, count, offset in (("train", 30, 0), ("test", 8, 100)):
        numbers = torch.arange(offset, offset + count, dtype=torch.uint8)
        raw[f"{part}_images"] = numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
        raw[f"{part}_labels"] = (numbers % 3).long()
    return raw


def numbers(data, split):
    return data[split].images[:, 0, 0, 0].tolist()


@given(st.integers(0, 2**31))
def test_splits_are_disjoint_whole_and_repeatable(seed):
    data, again = (split_dataset(TINY, tiny(), seed) for _ in range(2))
    assert [len(data[split]) for split in SPLITS] == [15, 4, 5, 6, 8]
    everything = list(itertools.chain.from_iterable(numbers(data, split) for split in SPLITS))
    assert sorted(everything) == [*range(30), *range(100, 108)]
    assert all(numbers(data, split) == numbers(again, split) for split in SPLITS)
    for split in SPLITS:
        assert data[split].labels.tolist() == [number % 3 for number in numbers(data, split)]


def test_another_seed_cuts_elsewhere_and_test_never_moves():
    first, second = (split_dataset(TINY, tiny(), seed) for seed in (0, 1))
    assert all(numbers(first, split) != numbers(second, split) for split in SPLITS[:-1])
    assert numbers(first, "test") == numbers(second, "test") == list(range(100, 108))


def test_splitting_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    split_dataset(TINY, tiny(), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_normalise_by_hand():
    data = split_dataset(TINY, tiny(), 0)
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    expected = torch.tensor([-2.0, (51 / 255 - 0.5) / 0.25, 2.0])
    torch.testing.assert_close(data.normalise(images).flatten(), expected)


def test_batches_come_in_order_and_stop_at_the_limit():
    data = split_dataset(TINY, tiny(), 0)
    sizes = [len(labels) for _, labels in data.batches("train", 4, limit=10)]
    labels = torch.cat([labels for _, labels in data.batches("train", 4, limit=10)])
    assert sizes == [4, 4, 2]
    assert torch.equal(labels, data["train"].labels[:10])


def test_digits_load_without_a_file(cache):
    data = load("digits")
    assert data.shape == (1, 8, 8)
    assert [len(data[split]) for split in SPLITS] == [900, 200, 200, 200, 297]
    assert data["train"].images.max() == 255
    mean = data["train"].images.float().mean() / 255
    assert float(mean) == pytest.approx(SPECS["digits"].mean[0], abs=0.01)
    assert not cache.exists()


def test_unknown_names_come_with_the_choices():
    with pytest.raises(DataError, match="'mnist'; there are digits, fashion_mnist, cifar10, cifar100"):
        load("mnist")
    with pytest.raises(DataError, match="no split 'validation' in tiny; there are train, calibration"):
        split_dataset(TINY, tiny(), 0)["validation"]


def test_a_missing_file_names_the_command(cache):
    with pytest.raises(DataError, match=r"experiments\.fetch data=cifar10"):
        load("cifar10")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.pop("test_labels"), "holds"),
        (lambda raw: raw.update(train_images=raw["train_images"].float()), "torch.float32"),
        (lambda raw: raw.update(train_images=raw["train_images"][:, :, :1]), r"\(30, 1, 1, 2\)"),
        (lambda raw: raw.update(train_labels=raw["train_labels"][:29]), "29 labels"),
        (
            lambda raw: raw.update({key: raw[key][:7] for key in ("test_images", "test_labels")}),
            "7 test images",
        ),
        (lambda raw: raw.update(test_labels=raw["test_labels"] + 1), "from 1 to 3"),
        (lambda raw: raw.update(test_labels=raw["test_labels"].int()), "torch.int32"),
        (lambda raw: raw["test_images"][3].fill_(9), "sha256"),
    ],
)
def test_each_damage_is_told(damage, message):
    raw = tiny()
    names = ("train_images", "train_labels", "test_images", "test_labels")
    spec = dataclasses.replace(TINY, sha256=digest([raw[name] for name in names]))
    check_raw(spec, raw, "here")
    damage(raw)
    with pytest.raises(DataError, match=message) as error:
        check_raw(spec, raw, "here")
    assert str(error.value).startswith("here: ")


def test_a_digest_is_of_the_bytes_whatever_the_type():
    ones = torch.ones(2, 3)
    expected = hashlib.sha256(ones.numpy().tobytes() + np.arange(3).tobytes()).hexdigest()
    assert digest([ones, torch.arange(3)]) == digest([ones.t().contiguous().t(), torch.arange(3)]) == expected
    for kind in (torch.bfloat16, torch.float16, torch.bool):
        assert digest([ones.to(kind)]) != digest([(0 * ones).to(kind)])
    assert len(digest([torch.tensor(3), torch.zeros(0)])) == 64


def test_a_truncated_file_is_told(tmp_path):
    tensor_files.write(tmp_path / "tiny.safetensors", tiny(), copy="mine")
    raw, copy = read_raw(TINY, tmp_path)
    assert torch.equal(raw["test_labels"], tiny()["test_labels"])
    assert copy == "mine"
    content = (tmp_path / "tiny.safetensors").read_bytes()
    (tmp_path / "tiny.safetensors").write_bytes(content[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_raw(TINY, tmp_path)


def test_fingerprint_follows_content_split_and_limit():
    data, other = split_dataset(TINY, tiny(), 0), split_dataset(TINY, tiny(), 1)
    prints = {data.fingerprint("reward"), data.fingerprint("selection"), data.fingerprint("reward", 2)}
    assert len(prints | {other.fingerprint("reward")}) == 4
    assert data.fingerprint("reward") == split_dataset(TINY, tiny(), 0).fingerprint("reward")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of plain colours, four images each to train, one to test."""
    for part, count in (("train", 4), ("val", 1)):
        for name, colour in (("ant", (200, 10, 10)), ("bee", (10, 10, 200))):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40 + number, 30), colour).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def read(folder, **changes):
    settings = {"seed": 0, "train_per_class": 4, "test_per_class": 1, "size": 16, "resize": 20} | changes
    return imagefolder.load(folder, **settings)


def test_an_image_folder_becomes_splits(folder):
    data = read(folder)
    assert data.shape == (3, 16, 16)
    assert [len(data[split]) for split in SPLITS] == [5, 1, 1, 1, 2]
    for split in SPLITS:
        reds = data[split].images[:, 0, 8, 8] > 100
        assert torch.equal(reds, data[split].labels == 0)
    assert sum(len(read(folder, train_per_class=3)[split]) for split in SPLITS[:-1]) == 6


def test_an_image_is_scaled_and_cut_out_of_the_middle(folder):
    """A 60 x 20 ramp, shorter side to 10: 30 x 10, of which columns 10 to 19 stay."""
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (20, 60, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(folder / "val" / "ant" / "0.png")
    image = read(folder, size=10, resize=10)["test"].images[0]
    expected = torch.arange(10, 20) * 8 + 2  # each output pixel is the mean of two columns
    assert (image[0, 5].int() - expected).abs().max() <= 1
    assert torch.equal(image[0], image[1])


@pytest.mark.parametrize(
    ("spoil", "changes", "message"),
    [
        (lambda f: (f / "val" / "bee").rename(f / "val" / "bees"), {}, "differ in their classes: bee, bees"),
        (
            lambda f: (f / "train" / "ant" / "0.png").write_bytes(b"no"),
            {},
            r"train/ant/0\.png cannot be read",
        ),
        (lambda f: (f / "val" / "ant" / "0.png").rename(f / "val" / "ant" / "0.txt"), {}, "no images in"),
        (lambda f: (f / "val").rename(f / "test"), {}, "no folder"),
        (lambda f: None, {"train_per_class": 0}, "at least 1 image"),
        (lambda f: None, {"memory_gib": 2e-6}, "0.0 GiB, more than 2e-06: lower train_per_class .* to 1 "),
        (lambda f: None, {"train_per_class": 1}, "2 images cannot hold out"),
    ],
)
def test_what_is_no_image_folder_is_told(folder, spoil, changes, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read(folder, **changes)


def test_hidden_folders_and_files_are_passed_over(folder):
    before = read(folder)
    for part in ("train", "val"):
        shutil.copytree(folder / part / "ant", folder / part / ".thumbs")
        (folder / part / "ant" / "._0.png").write_bytes(b"of macOS")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "__MACOSX").mkdir()
    data = read(folder)
    assert data.classes == 2
    assert all(data.fingerprint(split) == before.fingerprint(split) for split in SPLITS)


def own(count=30, **changes):
    """Two channels, three classes; the first channel is constant."""
    images = torch.zeros(count, 2, 4, 4, dtype=torch.uint8)
    images[:, 0], images[::2, 1] = 51, 255
    labels = torch.arange(count) % 3
    given = {
        "train_images": images,
        "train_labels": labels,
        "test_images": images[:5],
        "test_labels": labels[:5],
    }
    return from_tensors(**given | {"seed": 0} | changes)


def test_tensors_of_ones_own_are_split_and_measured():
    data = own()
    assert (data.classes, data.shape, data.flip) == (3, (2, 4, 4), False)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 21, "calibration": 3, "reward": 3, "selection": 3, "test": 5,
    }  # fmt: skip
    assert data.mean == pytest.approx((0.2, 0.5))
    assert data.std == pytest.approx((1 / 255, 0.5), rel=2e-3)  # a constant channel keeps its scale
    assert not torch.equal(own(seed=1)["reward"].images, data["reward"].images)
    told = own(classes=10, held_out=(1, 2, 4), mean=(0.0, 0.0), std=(1.0, 1.0), flip=True, name="mine")
    assert (told.name, told.classes, told.mean, told.flip) == ("mine", 10, (0.0, 0.0), True)
    assert [len(told[name]) for name in ("calibration", "reward", "selection")] == [1, 2, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.rand(30, 2, 4, 4)}, r"float32; bring them to 0\.\.255 and torch\.uint8"),
        ({"train_images": torch.zeros(30, 4, 4, dtype=torch.uint8)}, r"\(N, C, H, W\), not \(30, 4, 4\)"),
        ({"test_images": torch.zeros(5, 2, 3, 3, dtype=torch.uint8)}, r"tensors has \(2, 4, 4\) uint8"),
        ({"test_images": torch.zeros(0, 2, 4, 4, dtype=torch.uint8)}, "never none"),
        ({"train_labels": torch.arange(30.0) % 3}, "labels are torch.float32"),
        ({"train_labels": torch.arange(29) % 3}, "for 29 labels"),
        ({"train_labels": torch.arange(0)}, "never none"),
        ({"train_labels": torch.arange(30) % 3 - 1}, "from -1 to 1"),
        ({"test_labels": torch.full((5,), 3)}, "int64 below 3"),
        ({"held_out": (10, 10, 10)}, "30 training images cannot hold out 30"),
        ({"held_out": (10, 0, 10)}, "for three splits; give held_out"),
        ({"held_out": (10, 10)}, "held_out has three sizes, of calibration, reward and selection"),
        ({"count": 9}, "of 9 training images for three splits"),
    ],
)
def test_tensors_that_are_no_data_set_are_told(changes, message):
    with pytest.raises(DataError, match=message):
        own(**changes)


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_cache_folder_it_is_that_of_the_user(value, monkeypatch):
    monkeypatch.delenv(CACHE, raising=False)
    if value is not None:
        monkeypatch.setenv(CACHE, value)
    assert cache_folder() == Path.home() / ".cache" / "amc-rl"


def test_calibration_may_stay_in_train():
    spec = dataclasses.replace(TINY, calibration_in_train=True)
    data, apart = split_dataset(spec, tiny(), 0), split_dataset(TINY, tiny(), 0)
    assert [len(data[split]) for split in SPLITS] == [19, 4, 5, 6, 8]
    assert set(numbers(data, "train")) == set(numbers(apart, "train")) | set(numbers(apart, "calibration"))
    assert all(numbers(data, split) == numbers(apart, split) for split in SPLITS[1:])


def test_images_whose_channels_come_last_are_told() -> None:
    labels = torch.arange(40) % 4
    for shape in ((28, 28, 1), (9, 7, 3), (9, 7, 4)):
        images = torch.zeros(40, *shape, dtype=torch.uint8)
        with pytest.raises(DataError, match=r"looks like \(N, H, W, C\): give images\.permute\(0, 3, 1, 2\)"):
            from_tensors(images, labels, images, labels, seed=0)
    for shape in ((8, 100, 1), (3, 4, 4), (2, 1, 1), (16, 8, 8)):
        images = torch.randint(256, (40, *shape), dtype=torch.uint8)
        assert from_tensors(images, labels, images, labels, seed=0).shape == shape
    images = torch.randint(256, (40, 16, 32, 4), dtype=torch.uint8)
    data = from_tensors(images, labels, images, labels, seed=0, mean=np.full(16, 0.5), std=np.full(16, 0.3))
    assert data.shape == (16, 32, 4)


def test_a_mean_may_be_an_array_or_a_tensor() -> None:
    images, labels = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 4
    for kind in (np.array, torch.tensor, tuple):
        data = from_tensors(
            images, labels, images, labels, seed=0, mean=kind([0.5, 0.25, 0.75]), std=kind([0.25, 0.25, 0.5])
        )
        assert (data.mean, data.std) == ((0.5, 0.25, 0.75), (0.25, 0.25, 0.5))
