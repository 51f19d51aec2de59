"""Photographs in a folder or a zip: reading, splits, and refusals."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from amc_env.data import photos
from amc_env.data.splits import DataError

SMALL = {"seed": 0, "size": 8, "resize": 8}


def write(folder: Path, count: int, folders: int = 1) -> Path:
    for number in range(count):
        path = folder / f"c{number % folders}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    return folder


def values(split):
    return set(split.images[:, 0, 0, 0].tolist())


def test_every_photograph_is_in_one_split(tmp_path):
    data = photos.load(write(tmp_path / "photos", 40), **SMALL)
    parts = [values(data[name]) for name in ("calibration", "reward", "selection", "test")]
    assert [len(part) for part in parts] == [16, 8, 4, 12]
    assert set.union(*parts) == set(range(40))
    assert values(data["train"]) == parts[0]


def zipped(folder: Path, kind: int = zipfile.ZIP_STORED, prefix: str = "") -> Path:
    """A folder as a zip beside it, the prefix before each name."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", kind) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.writestr(f"{prefix}{file.relative_to(folder).as_posix()}", file.read_bytes())
    return path


@pytest.mark.parametrize("prefix", ["", "./", "photos//"])
def test_a_zip_reads_as_its_folder(tmp_path, prefix):
    folder = write(tmp_path / "photos", 24)
    one, other = (photos.load(root, **SMALL) for root in (folder, zipped(folder, prefix=prefix)))
    for split in one.splits:
        assert torch.equal(one[split].images, other[split].images)


def test_hidden_photographs_are_passed_over(tmp_path):
    folder = write(tmp_path / "photos", 24)
    for name in (".thumbs/0.png", "c0/._000.png", "__MACOSX/c0/._000.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"of macOS")
    for root in (folder, zipped(folder)):
        assert len(photos.load(root, **SMALL)["test"]) == 24 - 10 - 5 - 2
        assert photos.labelled(root, 1)


@pytest.mark.parametrize(
    "kind", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED]
)
@pytest.mark.parametrize("damage", ["bytes", "a hole", "the list of files"])
def test_a_damaged_zip_is_told(tmp_path, kind, damage):
    path = zipped(write(tmp_path / "photos", 24), kind)
    content = path.read_bytes()
    if damage == "bytes":
        content = content[:60] + bytes(255 - byte for byte in content[60:100]) + content[100:]
    elif damage == "a hole":
        content = content[:100] + content[400:]
    else:
        content = content.replace(b"PK\1\2", b"PK\1\0", 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"photos\.zip cannot be read .*: take it from its source again"):
        photos.load(path, **SMALL)


def test_an_encrypted_zip_is_to_be_unpacked(tmp_path):
    path = zipped(write(tmp_path / "photos", 24))
    content = path.read_bytes().replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")
    path.write_bytes(content.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1"))
    with pytest.raises(DataError, match=r"photos\.zip cannot be read .*encrypted.*: unpack it with another"):
        photos.load(path, **SMALL)


def test_class_folders_in_sorted_order_are_labels(tmp_path):
    data = photos.load(write(tmp_path / "photos", 24, folders=3), classes=3, **SMALL)
    test = data["test"]
    assert torch.equal(test.labels, test.images[:, 0, 0, 0].long() % 3)
    limited = photos.load(tmp_path / "photos", classes=3, limit=21, **SMALL)
    labels = [limited[split].labels for split in ("calibration", "reward", "selection", "test")]
    assert torch.cat(labels).bincount().tolist() == [7, 7, 7]
    few = limited["test"]
    with pytest.raises(DataError, match="limit=5 leaves too few images for the splits: give at least 20"):
        photos.load(tmp_path / "photos", classes=3, limit=5, **SMALL)
    assert torch.equal(few.labels, few.images[:, 0, 0, 0].long() % 3)
    assert photos.labelled(tmp_path / "photos", 3)
    assert not photos.labelled(tmp_path / "photos", 4)


def test_the_dense_network_labels_what_has_no_labels(tmp_path):
    class Bright(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([-mean, mean], 1)

    data = photos.load(write(tmp_path / "photos", 30), classes=2, **SMALL)
    found = photos.labelled_by(Bright(), data)
    for split in found.splits.values():
        assert torch.equal(split.labels, (split.images[:, 0, 0, 0] > 127).long())


@pytest.mark.parametrize(("mode", "value", "expected"), [("I;16", 65535, 255), ("L", 77, 77), ("1", 1, 255)])
def test_grey_photographs(tmp_path, mode, value, expected):
    folder = write(tmp_path / "photos", 20)
    dtype = {"I;16": np.uint16, "L": np.uint8, "1": np.bool_}[mode]
    Image.fromarray(np.full((8, 8), value, dtype)).save(folder / "a.png")
    data = photos.load(folder, limit=None, **SMALL)
    found = torch.cat([data[name].images for name in ("calibration", "reward", "selection", "test")])
    assert int((found == expected).all((1, 2, 3)).sum()) >= 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 9}, "size=9 is cut out"),
        ({"mean": (123.0, 117.0, 104.0)}, "divide by 255"),
        ({"std": (0.5, 0.0, 0.5)}, "std is above 0"),
        ({"mean": (0.5,)}, "mean is 3 finite numbers"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is 3 finite numbers"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path, changed, said):
    with pytest.raises(DataError, match=said):
        photos.load(write(tmp_path / "photos", 20), **SMALL | changed)


def test_what_is_no_photograph(tmp_path):
    folder = write(tmp_path / "photos", 20)
    (folder / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
        photos.load(folder, **SMALL)
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        photos.load(tmp_path / "nothing", **SMALL)
    with pytest.raises(DataError, match="holds 3 images"):
        photos.load(write(tmp_path / "few", 3), **SMALL)
