"""A network and its card in one compressed file, see `amc_env.coding.packed`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from amc_env import checkpoints, files
from amc_env.card import Card, CheckpointError, as_card
from amc_env.coding import CodingError, packed

SUFFIX = ".packed"


def write(path: Path, tensors: Mapping[str, Tensor], card: Card) -> bytes:
    """Write a network's state and its card; returns the file's content.

    Raises:
        CodingError: for a tensor that cannot be coded.
        OSError: when the file cannot be written.
    """
    content = packed.encode(tensors, asdict(card))
    files.write(path, content)
    return content


def read(path: Path) -> tuple[nn.Module, Card]:
    """The network of a compressed file, in evaluation mode, and its card.

    Raises:
        CodingError: when the file was shortened, extended or changed.
        CheckpointError: when it cannot be read, or is of a network that cannot be built.
    """
    try:
        content = files.content(path)
    except (OSError, files.DamagedError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        tensors, about = packed.decode(content)
    except CodingError as error:
        raise CodingError(f"{path}: {error}") from error
    card = as_card(about, path)
    model = checkpoints.empty(card, path)
    checkpoints.fill(model, tensors, path)
    return model.eval(), card
