"""The settings of a training; the configuration schema reads them without importing torch."""

from dataclasses import asdict, dataclass

from amc_env import checks

SCHEDULES = ("onecycle", "cosine")
LIMITS = {
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "lr": (1e-9, 1_000.0),
    "weight_decay": (0.0, 1_000.0),
    "schedule": SCHEDULES,
    "shift": (0, 64),  # pixels
    "erase": (0, 64),  # pixels
    "distill": (0.0, 1.0),
    "seed": (0, 4_294_967_295),
}


class RecipeError(ValueError):
    """An impossible recipe."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: SGD with Nesterov momentum under a schedule that ends at zero.

    ``schedule`` is "onecycle" (linear warm-up over a fifth of the steps, then cosine) or "cosine" (no
    warm-up). ``shift`` is the largest translation in pixels, ``erase`` the side of a square at a random place
    that is set to the mean (0: none); flips follow the data set. ``bfloat16`` runs the forward and backward
    passes in bfloat16 where the device has it; weights and updates stay float32.
    ``distill`` is the weight of a teacher's softened logits beside the labels, in [0, 1]; ``teacher`` is its
    checkpoint, None for the dense network that was compressed.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    shift: int = 2
    erase: int = 0
    bfloat16: bool = False
    distill: float = 0.0
    teacher: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.within(LIMITS, asdict(self))
        if self.teacher is not None and not self.distill:
            raise RecipeError(
                f"teacher={self.teacher} is given, but distill is 0: give distill a weight in (0, 1], or "
                "leave teacher out"
            )
