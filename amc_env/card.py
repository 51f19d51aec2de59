"""The card of a checkpoint: what its weights are, and where they came from."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT = 1
CARD_TYPES: dict[type, tuple[str, ...]] = {
    str: ("architecture", "data", "commit", "note", "sha256", "images"),
    int: ("classes", "in_channels", "seed", "data_seed"),
    dict: ("options", "recipe", "accuracy"),
    list: ("shape", "keep_whole"),
}
# Not in the first cards.
LATER: dict[str, Any] = {"keep_whole": [], "given": None, "data_seed": 0, "images": ""}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another network."""


COMPRESSED = "compressed from the checkpoint"  # begins the note of a compressed network


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint's weights are and where they came from.

    ``accuracy`` is top-1 in [0, 1] by split; ``seed`` is that of the training, ``data_seed`` that of the
    splits. ``options`` are those of `amc_env.zoo.build`. ``plan`` cut that network; None for a dense one;
    ``keep_whole`` and ``given`` are what it was traced with. `save` fills in ``sha256``, the digest of the
    weights file.
    """

    architecture: str
    classes: int
    in_channels: int
    data: str
    shape: tuple[int, ...]  # C, H, W of the images
    seed: int
    commit: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    note: str = ""
    sha256: str = ""
    format: int = FORMAT
    keep_whole: list[str] = field(default_factory=list)
    data_seed: int = 0
    given: dict[str, Any] | None = None  # of `amc_env.graph.given.Given`, where a part is compressed
    images: str = ""  # digest of the images that it was not trained on, all splits but train; "" if unknown

    @property
    def compressed(self) -> bool:
        """Whether the network is the result of a search; its weights alone may be fewer or shared."""
        return self.plan is not None or self.note.startswith(COMPRESSED)


def as_card(content: Any, path: Path) -> Card:
    """Plain data, checked to be a card.

    Raises:
        CheckpointError: naming the file and the first problem.
    """
    problem = _card_problem(content)
    if problem:
        raise CheckpointError(f"{path} is not a checkpoint's card: {problem}")
    return Card(**{**content, "shape": tuple(content["shape"])})


def _card_problem(content: object) -> str | None:
    """The first problem of a card file's content; None if there is none."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, not an object"
    if content.get("format") != FORMAT:
        return f"its format is {content.get('format')!r}, this version reads {FORMAT}"
    known = {entry.name for entry in fields(Card)}
    content = LATER | content
    if content.keys() != known:
        return f"missing {sorted(known - content.keys())}, unknown {sorted(content.keys() - known)}"
    for kind, keys in CARD_TYPES.items():
        for key in keys:
            if not isinstance(content[key], kind) or isinstance(content[key], bool):
                return f"{key} is {content[key]!r}, not of type {kind.__name__}"
    for key in ("plan", "given"):
        if not (content[key] is None or isinstance(content[key], dict)):
            return f"{key} is {content[key]!r}, not an object or null"
    if len(content["shape"]) != 3 or not all(type(size) is int and size > 0 for size in content["shape"]):
        return f"shape is {content['shape']}, not three sizes C, H, W"
    if not all(type(share) in (int, float) and 0 <= share <= 1 for share in content["accuracy"].values()):
        return f"accuracy is {content['accuracy']}, not numbers in [0, 1]"
    return None
