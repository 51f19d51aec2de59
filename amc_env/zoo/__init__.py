"""The model zoo: networks by name, built with seeded weights."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from amc_env.zoo import mobilenet, plain, resnet, tiny

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": tiny.DigitsCNN,
    "mobilenet_v1": mobilenet.mobilenet_v1,
    "mobilenet_v2": mobilenet.mobilenet_v2,
    "plain": plain.Plain,
    "plain20": partial(plain.Plain, 20),
    "resnet": resnet.cifar_resnet,
    "resnet20": partial(resnet.cifar_resnet, 20),
    "resnet50": resnet.resnet50,
    "resnet56": partial(resnet.cifar_resnet, 56),
}


class ModelError(ValueError):
    """A network that does not exist, does not take these options, or does not take these images."""


def names() -> list[str]:
    """The zoo's own names, sorted."""
    return sorted(MODELS)


def build(name: str, *, classes: int, in_channels: int, seed: int = 0, **options: Any) -> nn.Module:
    """A network by name, in training mode, with weights drawn from ``seed``; no global generator moves.

    Args:
        name: one of `names`.
        classes: number of logits.
        in_channels: channels of the images.
        seed: of the first weights.
        options: the builder's own, as ``width`` and ``small`` of the MobileNets.

    Raises:
        ModelError: for an unknown name or option, or a value that the network cannot have.
    """
    if classes < 1 or in_channels < 1:
        raise ModelError(f"{name}: classes and in_channels are at least 1, not {classes} and {in_channels}")
    builder = _builder(name, options)
    with torch.random.fork_rng(devices=[]):  # the layers' constructors draw from torch's default generator
        torch.default_generator.manual_seed(seed)
        try:
            return builder(classes=classes, in_channels=in_channels, **options)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{name}: {error}") from error


def _builder(name: str, options: Iterable[str]) -> Callable[..., nn.Module]:
    if name not in MODELS:
        raise ModelError(f"there is no model {name!r}; {nearest(name, names())}")
    builder = MODELS[name]
    own = [
        option for option in inspect.signature(builder).parameters if option not in ("classes", "in_channels")
    ]
    for option in options:
        if option not in own:
            choices = nearest(option, own) if own else "it takes none"
            raise ModelError(f"{name} has no option {option!r}; {choices}")
    return builder


def nearest(asked: str, choices: Iterable[str]) -> str:
    """The tail of an error: what was perhaps meant, and all there is."""
    choices = sorted(choices)
    near = difflib.get_close_matches(asked, choices, n=3, cutoff=0.5)
    listed = f"choose from {', '.join(choices)}"
    return f"did you mean {' or '.join(near)}? Otherwise {listed}" if near else listed
