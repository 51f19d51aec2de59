"""Photographs without labels: any folder of images, or a zip of them, split by a fixed seed."""

import dataclasses
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from amc_env.checks import number_of
from amc_env.data.archives import AGAIN, explained, hidden
from amc_env.data.decoding import check_sides, decoded
from amc_env.data.splits import SPLITS, DataError, DataSet, Split, check_scale
from amc_env.execution import device_in, evaluating

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SHARES = {"calibration": 0.4, "reward": 0.2, "selection": 0.1, "test": 0.3}
FEWEST = 20
BATCH = 50  # images that the dense network labels at once


def load(
    root: Path,
    *,
    seed: int,
    classes: int = 1000,
    size: int = 224,
    resize: int = 256,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    limit: int | None = None,
) -> DataSet:
    """Read every image below a folder, or in a zip, in the order of the names; hidden ones are skipped.

    A split drawn by ``seed`` gives 40 % of the images to calibration (which is the train split as well), 20 %
    to reward, 10 % to selection and 30 % to test. If there are as many folders with images as ``classes``,
    each is taken for a class and they are numbered in sorted order; else all labels are 0, until
    `labelled_by` replaces them by the dense network's predictions.

    Args:
        root: the folder or zip.
        seed: draws the splits.
        classes: number of classes of the network that will see the images.
        size: side of the centre crop, in pixels.
        resize: shorter side before the crop, in pixels, at least ``size``.
        mean: of each channel, for images in [0, 1]; three numbers.
        std: likewise, above 0.
        limit: number of images to take, the first by name, of class folders in turn; None for all.

    Raises:
        DataError: for no such folder, fewer than 20 images, an image that cannot be read, and numbers that
            do not fit together.
    """
    check_sides(size, resize)
    check_scale(mean, std, 3)
    every = _names(root)
    if limit is not None and limit < FEWEST <= len(every):
        raise DataError(f"limit={limit} leaves too few images for the splits: give at least {FEWEST}")
    if limit is not None and _folder_labels(every, classes) is not None:
        every = _in_turn(every)
    images = _read_all(root, every[:limit], size, resize)
    labels = _folder_labels(every, classes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    indices, start = {}, 0
    for split, share in SHARES.items():
        stop = len(images) if split == "test" else start + round(share * len(images))
        indices[split] = order[start:stop]
        start = stop
    indices["train"] = indices["calibration"]
    known = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels[: len(images)]
    splits = {split: Split(images[indices[split]], known[indices[split]]) for split in SPLITS}
    return DataSet("photos", classes, tuple(mean), tuple(std), False, splits)


def labelled(root: Path, classes: int) -> bool:
    """Whether the photographs lie in as many class folders as the network has classes."""
    return _folder_labels(_names(root), classes) is not None


def labelled_by(model: nn.Module, data: DataSet) -> DataSet:
    """The same images with the dense network's predictions as labels, so that top-1 is agreement with it."""
    device = device_in(model)
    splits = {}
    with evaluating(model):
        for name, split in data.splits.items():
            parts = [model(images.to(device)).argmax(1).cpu() for images, _ in data.batches(name, BATCH)]
            splits[name] = Split(split.images, torch.cat(parts))
    return dataclasses.replace(data, splits=splits)


def _read_all(root: Path, names: list[PurePath], size: int, resize: int) -> Tensor:
    if len(names) < FEWEST:
        raise DataError(
            f"{root} holds {number_of(len(names), 'image')} ({', '.join(SUFFIXES)}); at least {FEWEST} are "
            "needed for the splits"
        )
    images = torch.empty(len(names), 3, size, size, dtype=torch.uint8)
    for at, (name, content) in enumerate(_contents(root, names)):
        images[at] = _square(content, name, size, resize)
    return images


def _names(root: Path) -> list[PurePath]:
    if root.is_dir():
        found: Iterable[PurePath] = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    elif zipfile.is_zipfile(root):
        with explained(root), zipfile.ZipFile(root) as archive:
            found = _entries(archive)
    else:
        raise DataError(
            f"{root} is neither a folder nor a zip of images, or it is damaged: give another "
            f"data.root=FOLDER or data.root=FILE.zip, or {AGAIN}"
        )
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and not hidden(path))


def _entries(archive: zipfile.ZipFile) -> dict[PurePath, zipfile.ZipInfo]:
    """The files of a zip; the path of ``./x/0.png`` is ``x/0.png``."""
    return {PurePath(entry.filename): entry for entry in archive.infolist() if not entry.is_dir()}


def _contents(root: Path, names: list[PurePath]) -> Iterator[tuple[PurePath, bytes]]:
    with explained(root):
        if root.is_dir():
            yield from ((name, (root / name).read_bytes()) for name in names)
            return
        with zipfile.ZipFile(root) as archive:
            entries = _entries(archive)
            yield from ((name, archive.read(entries[name])) for name in names)


def _square(content: bytes, name: PurePath, size: int, resize: int) -> Tensor:
    """``(3, size, size)`` uint8: resized to a shorter side of ``resize``, then cropped."""
    image = decoded(content, name)
    scale = resize / min(image.size)
    width, height = (max(resize, round(scale * side)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


def _in_turn(names: list[PurePath]) -> list[PurePath]:
    """The first image of each folder, the second of each, and so on."""
    seen, placed = Counter[PurePath](), []
    for name in names:
        placed.append((seen[name.parent], name))
        seen[name.parent] += 1
    return [name for _, name in sorted(placed)]


def _folder_labels(names: list[PurePath], classes: int) -> Tensor | None:
    folders = sorted({name.parent for name in names})
    if len(folders) != classes:
        return None
    number = {folder: label for label, folder in enumerate(folders)}
    return torch.tensor([number[name.parent] for name in names])
