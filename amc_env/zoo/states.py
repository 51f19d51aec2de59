"""Reads weights files as trainers and wrappers save them."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from amc_env.checks import number_of

FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
STATES = (  # keys under which trainers save a network's state; the first that exists is read
    "state_dict", "model_ema", "model", "model_state_dict", "ema_state_dict", "params_ema", "params", "net",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile and Lightning
COUNTS = ("n_averaged",)  # of AveragedModel, beside its network


def is_state(checkpoint: str | None) -> bool:
    """Whether a checkpoint is a bare file of weights, rather than the stem of one with a card."""
    return checkpoint is not None and Path(checkpoint).suffix in FILES and Path(checkpoint).is_file()


def load_state(model: nn.Module, file: Path) -> None:
    """Load weights from a file, reading only tensors; a warning lists what was removed from their names.

    Args:
        model: the network; an error leaves it unchanged.
        file: with a suffix of `FILES`. Half precision is converted to the network's own.

    Raises:
        ValueError: for a file that cannot be read as tensors, or is of another network.
    """
    try:
        if file.suffix == ".safetensors":
            saved: Any = safetensors.torch.load_file(file)
        else:
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"the weights file {file} does not exist") from None
    except (UnpicklingError, KeyError, IndexError, ValueError) as error:  # bytes that are no pickle
        raise ValueError(
            f"the weights file {file} cannot be used: it is damaged, or holds code or objects, which are "
            "never run; save the tensors alone: torch.save(network.state_dict(), FILE)"
        ) from error
    except (OSError, RuntimeError, EOFError, AttributeError, safetensors.SafetensorError) as error:
        raise ValueError(f"the weights file {file} cannot be used: {_first_line(error)}") from error
    if isinstance(saved, Mapping) and set(saved) == {"state", "param_groups"}:
        raise ValueError(f"the weights file {file} holds an optimizer's state, not a network's")
    own = model.state_dict()
    state, taken_off = unwrapped(saved, own, file)
    # torchvision's files of GoogLeNet and Inception hold the auxiliary heads too
    state = {key: value for key, value in state.items() if key in own or not key.lower().startswith("aux")}
    counts = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**counts, **state} if state.keys() & set(own) else state  # old files lack them
    _check_keys(own, state, file)
    model.load_state_dict(state)
    if taken_off:
        warnings.warn(f"{file}: its tensors are those of the network behind {taken_off}", stacklevel=2)


def unwrapped(saved: Any, own: Collection[str], file: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a saved state, under the network's own names.

    Args:
        saved: a state, or nested mappings that hold one.
        own: names of the network's tensors.
        file: for messages.

    Returns:
        The state, and the keys and prefixes that were removed, such as ``state_dict: module.``.

    Raises:
        ValueError: for anything but named tensors.
    """
    off = []
    while isinstance(saved, Mapping) and (key := next((k for k in STATES if _holds(saved, k)), None)):
        saved = saved[key]
        off.append(f"{key}: ")
    if not isinstance(saved, Mapping) or not all(isinstance(key, str) for key in saved):
        raise ValueError(f"the weights file {file} holds a {type(saved).__name__}, not tensors by name")
    state = {key: value for key, value in saved.items() if key in own or key not in COUNTS}
    found = True
    while found and state and not state.keys() & set(own):
        found = False
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                off.append(prefix)
                found = True
    return state, "".join(off).strip()


def _holds(saved: Mapping[Any, Any], key: str) -> bool:
    return isinstance(saved.get(key), Mapping) and bool(saved[key])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _check_keys(own: Mapping[str, Tensor], state: Mapping[str, Any], file: Path) -> None:
    """Raise a ValueError with the first differences unless the state is this network's."""
    missing, odd = [key for key in own if key not in state], [key for key in state if key not in own]
    shapes = [key for key, value in own.items() if key in state and not _fits(state[key], value)]
    if missing or odd or shapes:
        lacks = [f"lacks {len(missing)}, as {', '.join(missing[:3])}"] if missing else []
        holds = [f"holds {number_of(len(odd), 'other')}, as {', '.join(odd[:3])}"] if odd else []
        differs = [f"has {len(shapes)} of another shape, as {shapes[0]}"] if shapes else []
        raise ValueError(
            f"the weights file {file} is not of this network: of {number_of(len(own), 'tensor')} it "
            f"{'; it '.join(lacks + holds + differs)}"
        )
    bad = [
        key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if bad:
        raise ValueError(f"the weights file {file} holds NaN or infinite numbers, in {', '.join(bad[:3])}")


def _fits(found: Any, wanted: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == wanted.shape
