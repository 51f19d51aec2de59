"""Files of tensors whose damage is detected: safetensors, with a digest in the metadata."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amc_env import files

DIGEST = "digest"


def write(path: Path, tensors: Mapping[str, Tensor], **facts: str) -> None:
    """Write tensors by name, and facts about them.

    Raises:
        OSError: when the file cannot be written.
    """
    digest = _digest(path.name, tensors, facts)
    files.write(path, safetensors.torch.save(dict(tensors), {**facts, DIGEST: digest}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and facts of a file of `write`; it must still have its name.

    Raises:
        DamagedError: for another kind of file, a damaged one, or one that was written under another name.
        OSError: for a file that is missing or unreadable.
    """
    if path.stat() and not path.is_file():
        raise files.DamagedError(f"{path} is not a file")
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise files.DamagedError(f"{path} is damaged: {error}") from error
    if facts.pop(DIGEST, None) != _digest(path.name, tensors, facts):
        raise files.DamagedError(f"{path} is damaged: its content is not what its digest says")
    return tensors, facts


def facts(path: Path) -> dict[str, str]:
    """The facts of a file of `write`, without its tensors and unchecked.

    Raises:
        DamagedError: for another kind of file.
        OSError: for a file that is missing or unreadable.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise files.DamagedError(f"{path} is damaged: {error}") from error


def _digest(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 of a file's name, facts, and each tensor with its name, type, shape and bytes."""
    told = {key: [str(value.dtype), list(value.shape)] for key, value in tensors.items()}
    total = hashlib.sha256(files.canonical([name, dict(facts), told]))
    for key in sorted(tensors):
        total.update(content(tensors[key]))
    return total.hexdigest()


def content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any type, in the order of its indices."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
