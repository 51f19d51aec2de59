"""Data sets made from the user's own tensors."""

import torch
from torch import Tensor

from amc_env.checks import number_of
from amc_env.data.specs import DataSpec
from amc_env.data.splits import DataError, DataSet, check_raw, split_dataset


def from_tensors(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    seed: int,
    name: str = "tensors",
    classes: int | None = None,
    held_out: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    flip: bool = False,
) -> DataSet:
    """A data set made from the user's own tensors.

    Args:
        train_images: ``(N, C, H, W)`` uint8; calibration, reward and selection splits are cut from these.
        train_labels: ``(N,)`` int64 from 0.
        test_images: ``(M, C, H, W)`` uint8.
        test_labels: ``(M,)`` int64 from 0.
        seed: draws the held-out splits.
        name: for messages and records.
        classes: number of classes; one more than the largest training label if left out.
        held_out: sizes of the three splits; a tenth each, at most 2,000, 5,000 and 5,000, if left out.
        mean: of each channel, for images in [0, 1]; if left out, that of the first 10,000 training images.
        std: likewise.
        flip: whether training may mirror the images.

    Raises:
        DataError: for tensors of another type or shape, labels out of range, or too few images.
    """
    raw = {
        "train_images": train_images, "train_labels": train_labels,
        "test_images": test_images, "test_labels": test_labels,
    }  # fmt: skip
    stated = std if mean is None else mean
    _check_tensors(name, raw, channels=0 if stated is None else len(stated))
    if held_out is not None and len(held_out) != 3:
        raise DataError(
            f"{name}: held_out has three sizes, of calibration, reward and selection, not {held_out}"
        )
    measured = ((), ()) if mean is not None and std is not None else _mean_and_std(train_images[:10_000])
    count, channels, height, width = train_images.shape
    tenth = count // 10
    spec = DataSpec(
        name=name,
        classes=int(train_labels.max()) + 1 if classes is None else classes,
        shape=(channels, height, width),
        mean=measured[0] if mean is None else tuple(map(float, mean)),
        std=measured[1] if std is None else tuple(map(float, std)),
        held_out=held_out or (min(tenth, 2000), min(tenth, 5000), min(tenth, 5000)),
        flip=flip,
        sizes=(count, len(test_images)),
    )
    check_raw(spec, raw, name)
    if min(spec.held_out) < 1:
        raise DataError(
            f"{name}: {spec.held_out} of {number_of(count, 'training image')} for three splits; give held_out"
        )
    return split_dataset(spec, raw, seed)


def _check_tensors(name: str, raw: dict[str, Tensor], *, channels: int) -> None:
    """Raise a `DataError` unless all are tensors with entries and the images are uint8 (N, C, H, W).

    Args:
        name: for messages.
        raw: images and labels.
        channels: of an image, as the user's mean or deviation tells; 0 where they are not given.
    """
    for given in raw.values():
        if not isinstance(given, Tensor):
            raise DataError(
                f"{name}: images and labels are torch tensors, not {type(given).__name__}; "
                "use torch.as_tensor"
            )
    images = raw["train_images"]
    if images.ndim != 4 or 0 in map(Tensor.numel, raw.values()):
        raise DataError(f"{name}: images are (N, C, H, W), not {tuple(images.shape)}, and never none")
    if images.dtype != torch.uint8:
        raise DataError(f"{name}: images are {images.dtype}; bring them to 0..255 and torch.uint8")
    _, first, second, last = images.shape
    if first != channels and min(first, second) > 4 and (last in (3, 4) or (last == 1 and first == second)):
        raise DataError(
            f"{name}: images are (N, C, H, W), and {tuple(images.shape)} looks like (N, H, W, C): give "
            "images.permute(0, 3, 1, 2); if they are right, give mean and std, a value for each channel"
        )


def _mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, for images in [0, 1]; a deviation is at least one grey level."""
    sample = images.float().div_(255)
    deviation = sample.std((0, 2, 3)).clamp_min(1 / 255)
    return tuple(sample.mean((0, 2, 3)).tolist()), tuple(deviation.tolist())
