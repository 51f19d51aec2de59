"""Networks from elsewhere: torchvision's classifiers by name, and the user's own function."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

STATES = ("state_dict", "model_ema", "model")  # where trainers put a network's state, the first that is there
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def torchvision_names() -> list[str]:
    """Every image classifier of the installed torchvision."""
    models = _torchvision()
    found: list[str] = models.list_models(module=models)
    return found


def torchvision_model(
    name: str, *, classes: int, in_channels: int, weights: str | None = None, **options: Any
) -> nn.Module:
    """A torchvision classifier without auxiliary heads.

    Args:
        name: one of `torchvision_names`.
        classes: number of logits.
        in_channels: other than 3 replaces the first convolution, which reads the image.
        weights: None for random ones, "DEFAULT" or another of torchvision's names for its own download, or
            the path of a ``.safetensors`` or ``.pth`` file that holds the network's state.
        options: arguments of the network's class, as ``width_mult``.

    Raises:
        ValueError: for weights that do not exist, cannot be had, or are of another network.
    """
    models = _torchvision()
    file = Path(weights) if weights is not None and Path(weights).suffix in (".safetensors", ".pth") else None
    published = weights if file is None else None
    builder = models.get_model_builder(name)
    if "pretrained" in options:
        raise ValueError("pretrained is torchvision's old option; use weights=DEFAULT")
    if published is not None:
        _refuse_misfit(models.get_model_weights(name), published, classes, in_channels)
    elif "init_weights" in inspect.signature(inspect.signature(builder).return_annotation).parameters:
        options.setdefault("init_weights", True)  # GoogLeNet and Inception warn without it
    try:
        model: nn.Module = builder(weights=published, progress=False, num_classes=classes, **options)
    except OSError as error:
        raise ValueError(
            f"the weights {weights} cannot be downloaded ({error}); give a file's path as weights, or put "
            f"torchvision's own file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    _drop_auxiliary_heads(model)
    if in_channels != 3:
        _read_other_images(model, in_channels)
    if file is not None:
        _load_state(model, file)
    return model


def imported(target: str, *, classes: int, in_channels: int, **options: Any) -> nn.Module:
    """The network that the user's function ``module:function`` returns for these arguments.

    Raises:
        ValueError: when there is no such module or function, it does not take these arguments, or it returns
            something other than a network.
    """
    made = function(target, "target")
    arguments = {"classes": classes, "in_channels": in_channels, **options}
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(
            f"{target}{inspect.signature(made)} would be called with {given}: {error}"
        ) from error
    model = made(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _torchvision() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ValueError(f"torchvision cannot be imported ({error}); pip install torchvision") from error


def _refuse_misfit(published: Any, asked: str, classes: int, in_channels: int) -> None:
    """Before any download, refuse weights that torchvision does not have or that do not fit."""
    there = ["DEFAULT", *(entry.name for entry in published)]
    if asked not in there:
        raise ValueError(
            f"there are no weights {asked!r}; choose from {', '.join(there)}, or a file that ends in "
            ".safetensors or .pth"
        )
    trained = len(published[asked].meta["categories"])
    if (classes, in_channels) != (trained, 3):
        raise ValueError(
            f"the weights {asked} are for {trained} classes and 3 channels, not for {classes} and "
            f"{in_channels}; leave weights out and train"
        )


def _drop_auxiliary_heads(model: nn.Module) -> None:
    """Remove auxiliary heads, so that GoogLeNet and Inception have one output in training mode, too."""
    if hasattr(model, "aux_logits"):
        heads = [name for name, _ in model.named_children() if name.lower().startswith("aux")]
        for name, value in (("aux_logits", False), *((head, None) for head in heads)):
            setattr(model, name, value)


def _read_other_images(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution's weights by fresh ones for so many input channels."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = in_channels
    first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, in_channels, *first.kernel_size))
    first.reset_parameters()


def _load_state(model: nn.Module, file: Path) -> None:
    """Fill in weights from a file, reading nothing but tensors."""
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        # torchvision's files of GoogLeNet and Inception hold the auxiliary heads too
        state = {key: value for key, value in unwrapped(state).items() if not key.lower().startswith("aux")}
        _check_keys(model, state, file)
        model.load_state_dict(state)
    except FileNotFoundError:
        raise ValueError(f"the weights file {file} does not exist") from None
    except (
        OSError,
        RuntimeError,
        EOFError,
        AttributeError,
        UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        raise ValueError(f"the weights file {file} cannot be used: {error}") from error


def unwrapped(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a state as trainers and wrappers save it: below a key of its own, under a prefix."""
    for key in STATES:
        if isinstance(saved.get(key), Mapping):
            return unwrapped(saved[key])
    state = dict(saved)
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_keys(model: nn.Module, state: Mapping[str, Any], file: Path) -> None:
    """Raise a ValueError with the first differences unless the state is this network's."""
    own = model.state_dict()
    missing, odd = [key for key in own if key not in state], [key for key in state if key not in own]
    shapes = [key for key, value in own.items() if key in state and value.shape != state[key].shape]
    if missing or odd or shapes:
        lacks = [f"lacks {len(missing)}, as {', '.join(missing[:3])}"] if missing else []
        holds = [f"holds {len(odd)} others, as {', '.join(map(str, odd[:3]))}"] if odd else []
        differs = [f"has {len(shapes)} of another shape, as {shapes[0]}"] if shapes else []
        raise ValueError(
            f"the weights file {file} is not of this network: of {len(own)} tensors it "
            f"{'; it '.join(lacks + holds + differs)}"
        )


def function(target: str, setting: str) -> Callable[..., Any]:
    """The function ``module:function`` of the user's, imported because the command line names it.

    Args:
        target: as given.
        setting: what it was given for, in messages.

    Raises:
        ValueError: when there is no such module or function.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"{setting} is module:function, as my_nets:build, not {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"there is no module {error.name!r} for {setting} {target!r}; is it on PYTHONPATH?"
        ) from error
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None or not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{module_name} has no function {name!r}; it has {', '.join(there) or 'none'}")
    return found
