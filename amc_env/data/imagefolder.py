"""Image folders in ImageNet's layout, the first images of each class held in memory."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amc_env.checks import number_of
from amc_env.data.archives import hidden
from amc_env.data.decoding import check_sides, decoded
from amc_env.data.specs import DataSpec
from amc_env.data.splits import DataError, DataSet, split_dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect them
SUFFIXES = (".jpeg", ".jpg", ".png")


def load(
    root: Path,
    *,
    seed: int,
    train_per_class: int,
    test_per_class: int,
    size: int = 224,
    resize: int = 256,
    memory_gib: float = 8.0,
) -> DataSet:
    """Read ``<root>/train/<class>/*.JPEG`` and ``<root>/val/<class>/*.JPEG`` into uint8 tensors.

    Classes are numbered in the order of their names. Of each class the first images by name are taken. Hidden
    folders and files are skipped. The calibration, reward and selection splits get a fifth of the training
    images each; ``val`` is the test split.

    Args:
        root: the folder that holds ``train`` and ``val``.
        seed: draws the held-out splits.
        train_per_class: images of each class from ``train``; fewer where there are fewer.
        test_per_class: the same from ``val``.
        size: side of the centre crop, in pixels.
        resize: shorter side before the crop, in pixels, at least ``size``.
        memory_gib: the most memory that the tensors may take, in GiB.

    Raises:
        DataError: for a layout that is not ImageNet's, an image that cannot be read, and too much memory.
    """
    check_sides(size, resize)
    classes = _shared_classes(root)
    if train_per_class < 1 or test_per_class < 1:
        raise DataError(
            f"at least 1 image a class, not {train_per_class} of train and {test_per_class} of val"
        )
    train, test = (
        [(path, label) for label, name in enumerate(classes) for path in _images(root / part / name, limit)]
        for part, limit in (("train", train_per_class), ("val", test_per_class))
    )
    share = len(train) // 5
    if share == 0:
        raise DataError(
            f"{root}/train: {number_of(len(train), 'image')} cannot hold out three splits; there should be 5"
        )
    _check_memory(len(train) + len(test), size, memory_gib, len(classes))
    raw = {}
    for part, files in (("train", train), ("test", test)):
        raw[f"{part}_images"] = _read(files, size, resize)
        raw[f"{part}_labels"] = torch.tensor([label for _, label in files])
    spec = DataSpec(
        name="imagefolder",
        classes=len(classes),
        shape=(3, size, size),
        mean=MEAN,
        std=STD,
        held_out=(share, share, share),
        flip=True,
        sizes=(len(train), len(test)),
    )
    return split_dataset(spec, raw, seed)


def _shared_classes(root: Path) -> list[str]:
    classes = classes_of(root / "train")
    if (others := classes_of(root / "val")) != classes:
        odd = ", ".join(sorted(set(classes) ^ set(others))[:5])
        raise DataError(f"{root}: train and val differ in their classes: {odd}")
    return classes


def classes_of(folder: Path) -> list[str]:
    """The names of a split's class folders in alphabetical order, at least one; hidden ones are none.

    Raises:
        DataError: if there are none.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: an image folder holds train/<class>/ and val/<class>/")
    found = (path for path in folder.iterdir() if path.is_dir() and not hidden(Path(path.name)))
    if not (names := sorted(path.name for path in found)):
        raise DataError(f"no class folders in {folder}")
    return names


def _images(folder: Path, limit: int) -> list[Path]:
    images = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    found = sorted(path for path in images if not hidden(Path(path.name)))
    if not found:
        raise DataError(f"no images in {folder}; they end in {', '.join(SUFFIXES)}")
    return found[:limit]


def _check_memory(count: int, size: int, memory_gib: float, classes: int) -> None:
    needed = count * 3 * size**2 / 2**30
    if needed > memory_gib:
        fits = int(memory_gib * 2**30 / (3 * size**2)) // classes
        raise DataError(
            f"{count} images of {size} x {size} take {needed:.1f} GiB, more than {memory_gib:g}: lower "
            f"train_per_class and test_per_class to {fits} together, or raise memory_gib"
        )


def _read(files: list[tuple[Path, int]], size: int, resize: int) -> Tensor:
    """Images ``(N, 3, size, size)`` uint8: resized to a shorter side of ``resize``, then cropped."""
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for at, (path, _) in enumerate(files):
        image = decoded(path, path)
        width, height = (int(resize * side / min(image.size)) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)))
        images[at] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return images
