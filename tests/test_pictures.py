"""A data set as pictures in folders or archives, and what is refused of them."""

import dataclasses
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from amc_env.data import pictures
from amc_env.data.specs import DataSpec
from amc_env.data.splits import (
    DataError,
    check_raw,
)

PICTURES = DataSpec("pictures", 2, (3, 2, 2), (0.5,) * 3, (0.25,) * 3, (1, 1, 1), flip=True, sizes=(4, 2))


def lay_pictures(folder: Path, suffix: str = ".png") -> Path:
    """Two classes, two images each to train and one to test; red is 40 times the number plus the label."""
    for part, count in (("train", 2), ("test", 1)):
        for label, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (2, 2), (40 * number + label, 100, 200))
                image.save(folder / part / name / f"{number}{suffix}")
    return folder


def packed(folder: Path, kind: str) -> Path:
    return Path(shutil.make_archive(str(folder.with_name("packed")), kind, folder.parent, folder.name))


@pytest.mark.parametrize("kind", [None, "zip", "gztar", "xztar"])
def test_pictures_of_a_folder_or_an_archive(tmp_path, kind):
    root = lay_pictures(tmp_path / "data")
    root = root if kind is None else packed(root, kind)
    assert pictures.holds_pictures(root)
    raw, copy = pictures.read(PICTURES, root)
    check_raw(PICTURES, raw, root)
    assert copy == "PNG copies"
    assert raw["train_images"][:, :, 0, 0].tolist() == [[r, 100, 200] for r in (0, 1, 40, 41)]
    assert raw["train_labels"].tolist() == [0, 1, 0, 1]  # by file name first
    assert raw["test_labels"].tolist() == [0, 1]


def test_a_folder_around_train_and_test_is_ignored(tmp_path):
    straight, _ = pictures.read(PICTURES, lay_pictures(tmp_path / "one"))
    lay_pictures(tmp_path / "other" / "inside")
    (tmp_path / "other" / ".hidden").mkdir()
    assert pictures.holds_pictures(tmp_path / "other")
    nested, _ = pictures.read(PICTURES, tmp_path / "other")
    assert all(torch.equal(nested[name], value) for name, value in straight.items())


def test_a_folder_without_one_of_its_parts_is_of_pictures_and_says_which(tmp_path):
    shutil.rmtree(lay_pictures(tmp_path) / "test")
    assert pictures.holds_pictures(tmp_path)


def test_jpeg_copies_are_called_that(tmp_path):
    assert pictures.read(PICTURES, lay_pictures(tmp_path, ".jpg"))[1] == "JPEG copies"


def test_other_files_are_no_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("train/ant/0.png")
    assert not pictures.holds_pictures(tmp_path / "notes.txt")
    assert not pictures.holds_pictures(tmp_path)
    assert not pictures.holds_pictures(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "test" / "bee").rename(f / "test" / "bees"), "differ in their classes: bee, bees"),
        (lambda f: [(f / p / "bee").rename(f / p / "ant" / "x") for p in ("train", "test")],
         r"has 1 class \(ant\); pictures has 2"),
        (lambda f: shutil.rmtree(f / "test"), r"no images \(.jpg, .jpeg, .png\) under test/<class>/$"),
        (lambda f: (shutil.rmtree(f / "test"), shutil.rmtree(f / "train"), (f / "train").mkdir()),
         r"under train/<class>/ and test/<class>/$"),
        (lambda f: (f / "train" / "ant" / "1.png").unlink(), "3 train images, pictures has 4"),
        (lambda f: (f / "train" / "ant" / "1.png").rename(f / "train" / "ant" / "1.jpg"),
         "mixes JPEG copies and PNG copies"),
        (lambda f: Image.new("RGB", (3, 2)).save(f / "test" / "bee" / "0.png"),
         r"test/bee/0\.png is 3 x 2 pixels; pictures has 2 x 2"),
        (lambda f: (f / "test" / "bee" / "0.png").write_bytes(b"no"), r"bee/0\.png cannot be read"),
    ],
)  # fmt: skip
def test_other_classes_counts_and_sizes_are_told(tmp_path, spoil, message):
    root = lay_pictures(tmp_path)
    spoil(root)
    with pytest.raises(DataError, match=message):
        check_raw(PICTURES, pictures.read(PICTURES, root)[0], root)


def test_the_class_names_of_cifar10_are_known(tmp_path):
    spec = dataclasses.replace(PICTURES, name="cifar10")
    with pytest.raises(DataError, match=r"2 classes \(ant, bee\); cifar10 has 2 \(airplane, automobile"):
        pictures.read(spec, lay_pictures(tmp_path))


def test_an_archive_cut_short_is_told(tmp_path):
    path = packed(lay_pictures(tmp_path / "data"), "xztar")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read(PICTURES, path)


def test_a_tar_gz_cut_within_its_first_header_is_told(tmp_path):
    path = packed(lay_pictures(tmp_path / "data"), "gztar")
    path.write_bytes(path.read_bytes()[:40])
    assert pictures.holds_pictures(path)
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read(PICTURES, path)


@pytest.mark.parametrize("kind", [None, "zip", "tar"])
def test_files_of_macos_and_hidden_folders_are_no_pictures(tmp_path, kind):
    root = lay_pictures(tmp_path / "data")
    for name in ("train/.thumbs/0.png", "train/ant/._0.png", "__MACOSX/train/ant/._0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"of macOS")
    raw, _ = pictures.read(PICTURES, root if kind is None else packed(root, kind))
    assert raw["train_labels"].tolist() == [0, 1, 0, 1]


def linked(folder: Path, name: str, target: str) -> Path:
    """A tar of pictures and one symbolic link."""
    path = packed(lay_pictures(folder / "data"), "tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, target
        archive.addfile(link)
    return path


def test_links_in_a_tar_count_only_where_they_are_pictures(tmp_path):
    elsewhere, good, dangling = (
        linked(tmp_path / name, f"data/{name}", target)
        for name, target in (
            ("latest", "nowhere"),
            ("train/ant/2.png", "1.png"),
            ("train/ant/3.png", "nowhere"),
        )
    )
    assert pictures.read(PICTURES, elsewhere)[0]["train_labels"].tolist() == [0, 1, 0, 1]
    assert pictures.read(PICTURES, good)[0]["train_labels"].tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(DataError, match=r"packed\.tar cannot be read .*nowhere' not found.*from its source"):
        pictures.read(PICTURES, dangling)


def marked(path: Path, local: int, central: int, value: int) -> Path:
    """A zip with a byte set in each member's local and central header, at these offsets."""
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        start = -1
        while (start := content.find(magic, start + 1)) >= 0:
            content[start + offset] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("local", "central", "value", "reason"),
    [(6, 8, 1, "encrypted"), (8, 10, 9, "compression method")],
    ids=["encrypted", "Deflate64"],
)
def test_a_zip_that_python_cannot_unpack_is_to_be_unpacked(tmp_path, local, central, value, reason):
    path = marked(packed(lay_pictures(tmp_path / "data"), "zip"), local, central, value)
    with pytest.raises(DataError, match=rf"packed\.zip cannot be read .*{reason}.*: unpack it with"):
        pictures.read(PICTURES, path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_told(tmp_path, kind):
    root, path = lay_pictures(tmp_path / "data"), tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    content = bytearray(path.read_bytes())
    for at in range(60, 100):
        content[at] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"packed\.zip cannot be read .*: take it from its source again"):
        pictures.read(PICTURES, path)
