"""Networks from outside the zoo: torchvision's and timm's by name, and those of the user's own function."""

import importlib
import inspect
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from amc_env.functions import function
from amc_env.zoo.states import FILES, load_state


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
            the path of a weights file, see `amc_env.zoo.states.load_state`.
        options: arguments of the network's class, such as ``width_mult``.

    Raises:
        ValueError: for weights that do not exist, cannot be downloaded, or belong to another network.
    """
    models = _torchvision()
    file = Path(weights) if weights is not None and Path(weights).suffix in FILES else None
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
        load_state(model, file)
    return model


def timm_names() -> list[str]:
    """Every network of the installed timm."""
    found: list[str] = _timm().list_models()
    return found


def timm_model(
    name: str, *, classes: int, in_channels: int, weights: str | None = None, **options: Any
) -> nn.Module:
    """A network of timm.

    Args:
        name: one of `timm_names`; a tag behind a dot, as timm's own names of weights have, is allowed.
        classes: number of logits.
        in_channels: channels of the images.
        weights: None for random ones, or the path of a weights file, see `states.load_state`.
        options: arguments of the network's class, such as ``drop_rate``.

    Raises:
        ValueError: for weights that do not exist or belong to another network, or an unknown tag or option.
    """
    for option in ("pretrained", "checkpoint_path"):
        if option in options:
            raise ValueError(f"{option} is timm's own option; download the file and give weights=FILE")
    file = None if weights is None else Path(weights)
    if file is not None and file.suffix not in FILES:
        raise ValueError(f"weights={weights} is no path of a file ({', '.join(FILES)}); download it first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that timm has renamed
        try:
            model: nn.Module = _timm().create_model(
                name, pretrained=False, num_classes=classes, in_chans=in_channels, **options
            )
        except RuntimeError as error:
            raise ValueError(f"timm cannot build it: {error}") from error
    if file is not None:
        load_state(model, file)
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


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(f"timm cannot be imported ({error}): pip install 'amc-rl[timm]'") from error


def _refuse_misfit(published: Any, asked: str, classes: int, in_channels: int) -> None:
    """Refuse, before any download, weights that torchvision does not have or that do not fit."""
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
    """Replace the first convolution's weights by random ones for ``in_channels`` input channels."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = in_channels
    first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, in_channels, *first.kernel_size))
    first.reset_parameters()
