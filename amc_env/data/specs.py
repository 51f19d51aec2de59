"""What is known about each data set before it is read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What is known about a data set before it is read.

    ``mean`` and ``std`` are per channel, of images in [0, 1]. ``held_out`` are the sizes of the calibration,
    reward and selection splits, all cut from the official training images; the rest is the train split. With
    ``calibration_in_train`` the calibration images stay in the train split, as in AMC's released code.
    ``sizes`` are the official numbers of training and test images. ``sha256`` is the digest of the canonical
    tensors, if known, see `amc_env.data.splits.digest`.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]  # C, H, W
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: tuple[int, int, int]
    flip: bool
    sizes: tuple[int, int]
    sha256: str | None = None
    calibration_in_train: bool = False


SPECS = {
    spec.name: spec
    for spec in (
        DataSpec(
            "digits", 10, (1, 8, 8), (0.3051,), (0.3750,), (200, 200, 200), flip=False, sizes=(1500, 297),
        ),
        DataSpec(
            "fashion_mnist", 10, (1, 28, 28), (0.2860,), (0.3530,), (2000, 4000, 5000), flip=True,
            sizes=(60_000, 10_000),
            sha256="ece172613115fb18b120bec8f6c02271af90b8b8f0a5af5c51cbd5ceed68e619",
        ),
        DataSpec(
            "cifar10", 10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
            (2000, 2500, 2500), flip=True, sizes=(50_000, 10_000), calibration_in_train=True,
        ),
        DataSpec(
            "cifar100", 100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
            (2000, 2500, 2500), flip=True, sizes=(50_000, 10_000), calibration_in_train=True,
        ),
    )
}  # fmt: skip
