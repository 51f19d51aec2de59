"""Data of the user's own, in any form that network and metric understand: lists of images, boxes, masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amc_env.data.splits import SPLITS, DataError, digest
from amc_env.graph.given import PLAIN, tensors

Batch = tuple[Any, Any]
NEEDED = tuple(split for split in SPLITS if split != "train")


@dataclass(frozen=True)
class OwnSplit:
    """Batches of (images, targets)."""

    batches: Sequence[Batch]

    def __len__(self) -> int:
        return sum(count(images) for images, _ in self.batches)

    def head(self, limit: int | None) -> OwnSplit:
        """The first ``limit`` images; all of them if there are fewer, or if it is None.

        A batch is cut only if its targets are one for each image: a list, tuple or tensor as long as the
        images, or a dict of these. With others it stays whole, and with a tensor of two dimensions, which may
        be ``(M, 6)`` boxes of N images, even where M is N.
        """
        kept, left = [], len(self) if limit is None else limit
        for images, targets in self.batches:
            if left <= 0:
                break
            here = count(images)
            whole = here <= left or not _one_each(targets, here)
            kept.append((images, targets) if whole else (_first(images, left), _first(targets, left)))
            left -= here
        return OwnSplit(kept)


def _is_pair(batch: object) -> bool:
    return isinstance(batch, list | tuple) and len(batch) == 2


@dataclass(frozen=True)
class OwnData:
    """Data whose images go to the network as they are, and whose targets only a metric reads.

    Args:
        name: for messages and records.
        classes: of the network that is built for it.
        splits: ``calibration``, ``reward``, ``selection`` and ``test``: batches, each a pair of images and
            targets. Images are a tensor ``(N, ...)`` or a list of N; targets have any form.

    Raises:
        DataError: for a split that is missing or empty, or images whose number cannot be determined.
    """

    name: str
    classes: int
    splits: Mapping[str, Sequence[Batch]]
    copy: str = ""

    def __post_init__(self) -> None:
        for split in NEEDED:
            given = self.splits.get(split, ())
            if not hasattr(given, "__getitem__") or not all(_is_pair(batch) for batch in given):
                raise DataError(
                    f"{self.name}: {split} is a list of batches, each a pair (images, targets); of a "
                    "DataLoader without shuffling give list(loader)"
                )
            if len(self[split]) == 0:
                raise DataError(f"{self.name}: the {split} split holds no image")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the first image."""
        images = self.splits["calibration"][0][0]
        first = next((value for value in tensors(images)), None)
        if first is None or first.ndim not in (3, 4):
            raise DataError(f"{self.name}: there is no image (C, H, W) in its first batch")
        channels, height, width = first.shape[-3:]
        return int(channels), int(height), int(width)

    def __getitem__(self, split: str) -> OwnSplit:
        if split not in self.splits:
            raise DataError(f"no split {split!r} in {self.name}; it needs {', '.join(NEEDED)}")
        return OwnSplit(self.splits[split])

    def batches(self, split: str, size: int, limit: int | None = None) -> Iterator[Batch]:
        """The batches of the first ``limit`` images as they were given; ``size`` is ignored."""
        yield from self[split].head(limit).batches

    def joined(self, split: str, limit: int) -> Any:
        """The images of a split as one batch.

        Raises:
            DataError: for batches that are neither tensors of one size nor lists.
        """
        parts = [images for images, _ in self[split].head(limit).batches]
        if all(isinstance(part, list | tuple) for part in parts):
            return [image for part in parts for image in part]
        if all(isinstance(part, Tensor) and part.shape[1:] == parts[0].shape[1:] for part in parts):
            return torch.cat(parts)
        if len(parts) == 1:
            return parts[0]
        raise DataError(
            f"{self.name}: batches of {split} cannot be joined to one, which repair=sequential runs at once: "
            "make them lists, or tensors of one size, or choose repair=moments"
        )

    def fingerprint(self, split: str, limit: int | None = None) -> str:
        """A short hash of the images of a split, for the keys of caches."""
        found = [
            value.detach().cpu() for part in self[split].head(limit).batches for value in tensors(part[0])
        ]
        return digest(found)[:16]


def _one_each(targets: Any, images: int) -> bool:
    """Whether all that targets hold is one for each image, or one plain value for all of them."""
    if isinstance(targets, Mapping):
        return all(_one_each(each, images) for each in targets.values())
    if isinstance(targets, list | tuple) or (isinstance(targets, Tensor) and targets.ndim not in (0, 2)):
        return len(targets) == images
    return isinstance(targets, PLAIN)


def count(images: Any) -> int:
    """The number of images in a batch.

    Raises:
        DataError: if it cannot be determined.
    """
    if isinstance(images, Tensor) and images.ndim:
        return images.size(0)
    if isinstance(images, list | tuple):
        return len(images)
    if isinstance(images, Mapping) and images:
        return count(next(iter(images.values())))
    raise DataError(
        f"images are {type(images).__name__}; they are a tensor (N, ...), a list of N, or a dict of these"
    )


def _first(value: Any, number: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _first(each, number) for key, each in value.items()}
    sized = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 0)
    return value[:number] if sized else value
