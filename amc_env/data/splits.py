"""Data sets held in memory and their fixed splits.

Reward, selection and test images are in no other split. On CIFAR-10 the calibration images are also trained
on, as in AMC's released code.

A data set is one safetensors file of uint8 images and int64 labels under the data folder;
``experiments.fetch`` makes it from whatever source a machine can reach. Digits come with scikit-learn and
need no file.
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amc_env import tensor_files
from amc_env.checks import number_of
from amc_env.data.specs import SPECS, DataSpec
from amc_env.files import DamagedError

SPLITS = ("train", "calibration", "reward", "selection", "test")
REPORTED = ("selection", "test")  # whose accuracies records and tables have
CACHE = "AMC_CACHE"
OFFICIAL = "official files"  # against, for example, "JPEG copies", whose pixels are not the same


FETCH = "`python -m experiments.fetch data={name}`"


class DataError(ValueError):
    """Data that are missing, damaged, or do not fit the model."""


@dataclass(frozen=True, slots=True)
class Split:
    """Images ``(N, C, H, W)`` uint8 and labels ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> "Split":
        """The first ``count`` images; all of them if there are fewer, or if it is None."""
        return Split(self.images[:count], self.labels[:count])


@functools.cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value for each channel, in 0..255, ``(1, C, 1, 1)``; cached, as a CUDA graph cannot copy it."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1) * 255


@dataclass(frozen=True)
class DataSet:
    """A data set in memory: one `Split` for each name in `SPLITS`, and how its images are normalised."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    splits: Mapping[str, Split]
    copy: str = ""  # name of the copy that was read, if there are several; goes into cards and records

    def __post_init__(self) -> None:
        check_scale(self.mean, self.std, self.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.splits["train"].images.shape[1:]
        return int(channels), int(height), int(width)

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise DataError(f"no split {split!r} in {self.name}; there are {', '.join(self.splits)}")
        return self.splits[split]

    def normalise(self, images: Tensor) -> Tensor:
        """Uint8 images to float32 of zero mean and unit deviation a channel."""
        mean, std = (_constant(values, images.device) for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std)

    def batches(self, split: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels of a split in their fixed order, ``size`` at a time."""
        part = self[split].head(limit)
        for start in range(0, len(part), size):
            chunk = slice(start, start + size)
            yield self.normalise(part.images[chunk]), part.labels[chunk]

    def joined(self, split: str, limit: int) -> Tensor:
        """The normalised images of a split as one batch."""
        return self.normalise(self[split].head(limit).images)

    def fingerprint(self, split: str, limit: int | None = None) -> str:
        """A short hash of what `batches` yields, for the keys of caches and for records."""
        part = self[split].head(limit)
        return digest([part.images, part.labels, torch.tensor(self.mean + self.std)])[:16]


def check_scale(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise a `DataError` unless these can normalise images in [0, 1] with ``channels`` channels."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not all(math.isfinite(value) for value in values):
            raise DataError(
                f"{name} is {channels} finite number{'s' * (channels > 1)}, one a channel, not {list(values)}"
            )
        if max(values) > 1:
            raise DataError(
                f"{name}={list(values)} is on the scale 0..255: divide by 255, images are in [0, 1]"
            )
    if min(std) <= 0:
        raise DataError(f"std is above 0, not {list(std)}")


def load(name: str, *, seed: int = 0) -> DataSet:
    """A data set by name, split by a generator that is seeded with ``seed``.

    Args:
        name: a key of `SPECS`.
        seed: draws the held-out splits; the same seed gives the same splits on any machine.

    Raises:
        DataError: for an unknown name, and for a file that is missing or damaged.
    """
    if name not in SPECS:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(SPECS)}")
    spec = SPECS[name]
    if name == "digits":
        return split_dataset(spec, _digits(), seed)
    raw, copy = read_raw(spec, data_folder())
    return split_dataset(spec, raw, seed, copy=copy)


def data_folder() -> Path:
    """The folder of data sets: ``$AMC_CACHE/data``, or ``~/.cache/amc-rl/data``."""
    return cache_folder() / "data"


def cache_folder() -> Path:
    """The folder of everything that can be made again: ``$AMC_CACHE``, or ``~/.cache/amc-rl``."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "amc-rl")


def split_dataset(spec: DataSpec, raw: Mapping[str, Tensor], seed: int, copy: str = "") -> DataSet:
    """Cut the official training images into train, calibration, reward and selection; test stays test."""
    images, labels = raw["train_images"], raw["train_labels"]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    sizes = (len(labels) - sum(spec.held_out), *spec.held_out)
    if sizes[0] <= 0:
        raise DataError(
            f"{spec.name}: {number_of(len(labels), 'training image')} cannot hold out {sum(spec.held_out)}"
        )
    indices = dict(zip(SPLITS, torch.split(order, list(sizes)), strict=False))
    if spec.calibration_in_train:
        indices["train"] = order[: sizes[0] + spec.held_out[0]]
    splits = {name: Split(images[at], labels[at]) for name, at in indices.items()}
    splits["test"] = Split(raw["test_images"], raw["test_labels"])
    return DataSet(spec.name, spec.classes, spec.mean, spec.std, spec.flip, splits, copy)


def read_raw(spec: DataSpec, root: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a data set's file, checked against its `DataSpec`, and the name of their copy."""
    path, again = root / f"{spec.name}.safetensors", FETCH.format(name=spec.name)
    try:
        raw, facts = tensor_files.read(path)
    except FileNotFoundError as error:
        raise DataError(f"no {path}: make it with {again}") from error
    except (OSError, DamagedError) as error:
        raise DataError(f"{error}; make it again with {again}") from error
    check_raw(spec, raw, path)
    return raw, facts.get("copy", OFFICIAL)


def check_raw(spec: DataSpec, raw: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise a `DataError` unless the tensors are complete and those of the data set."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    if set(raw) != set(names):
        raise DataError(f"{source}: holds {sorted(raw)}, expected {sorted(names)}")
    for part, size in zip(("train", "test"), spec.sizes, strict=True):
        images, labels = raw[f"{part}_images"], raw[f"{part}_labels"]
        if labels.ndim != 1:
            raise DataError(
                f"{source}: {part} labels are of shape {tuple(labels.shape)}, wanted is (N,) class numbers: "
                "flatten (N, 1), take argmax(1) of one-hot rows"
            )
        if tuple(images.shape[1:]) != spec.shape or images.dtype != torch.uint8 or len(images) != len(labels):
            raise DataError(
                f"{source}: {part} images are {tuple(images.shape)} {images.dtype} for "
                f"{number_of(len(labels), 'label')}; {spec.name} has {spec.shape} uint8"
            )
        if len(labels) != size:
            raise DataError(f"{source}: {len(labels)} {part} images, {spec.name} has {size}")
        if labels.dtype != torch.int64 or int(labels.min()) < 0 or int(labels.max()) >= spec.classes:
            found = f"{labels.dtype} from {int(labels.min())} to {int(labels.max())}"
            raise DataError(
                f"{source}: {part} labels are {found}; {spec.name} has int64 below {spec.classes}"
            )
    if spec.sha256 is not None and (found := digest([raw[name] for name in names])) != spec.sha256:
        raise DataError(f"{source}: sha256 {found[:16]}..., expected {spec.sha256[:16]}...; fetch it again")


def digest(tensors: list[Tensor]) -> str:
    """SHA-256 of the bytes of tensors, in order; they may be of any type and on any device."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor_files.content(tensor))
    return total.hexdigest()


def _digits() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits  # 1.7 s to import, and only digits need it

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * 15.9375).astype(np.uint8)).unsqueeze(1)  # 0..16 to 0..255
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return {
        "train_images": images[:1500], "train_labels": labels[:1500],
        "test_images": images[1500:], "test_labels": labels[1500:],
    }  # fmt: skip
