"""The model zoo: networks by name, built with seeded weights."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.checks import among, did_you_mean
from amc_env.execution import device_in, evaluating
from amc_env.zoo import efficientnet, external, lenet, mobilenet, plain, resnet, shufflenet, tiny, vgg

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": tiny.digits_cnn,
    "efficientnet_lite0": efficientnet.efficientnet_lite0,
    "fashion_cnn": tiny.fashion_cnn,
    "lenet300_100": lenet.lenet300_100,
    "lenet5": lenet.lenet5,
    "mobilenet_v1": mobilenet.mobilenet_v1,
    "mobilenet_v2": mobilenet.mobilenet_v2,
    "plain": plain.Plain,
    "plain20": partial(plain.Plain, 20),
    "resnet": resnet.cifar_resnet,
    "resnet20": partial(resnet.cifar_resnet, 20),
    "resnet50": resnet.resnet50,
    "resnet56": partial(resnet.cifar_resnet, 56),
    "shufflenet_v1": shufflenet.shufflenet_v1,
    "shufflenet_v2": shufflenet.shufflenet_v2,
    "tiny": tiny.TinyCNN,
    "vgg16": vgg.vgg16,
}


TORCHVISION, TIMM = "torchvision/", "timm/"
GIVEN = ("classes", "in_channels")  # what every builder takes; the rest of its parameters are options


class ModelError(ValueError):
    """A network that does not exist, does not take these options, or does not take these images."""


def names() -> list[str]:
    """The zoo's own names, sorted."""
    return sorted(MODELS)


def build(name: str, *, classes: int, in_channels: int, seed: int = 0, **options: Any) -> nn.Module:
    """A network by name, in training mode, with weights drawn from ``seed``; global generators are untouched.

    Args:
        name: one of `names`; ``torchvision/<name>`` or ``timm/<name>`` for any image classifier of those;
            ``import`` for the user's own, with the option ``target="module:function"``.
        classes: number of logits.
        in_channels: channels of the images.
        seed: of the initial weights.
        options: of the builder, such as ``width`` and ``small`` of the MobileNets.

    Raises:
        ModelError: for an unknown name or option, or a value that the network cannot have.
    """
    if classes < 1 or in_channels < 1:
        raise ModelError(f"{name}: classes and in_channels are at least 1, not {classes} and {in_channels}")
    try:
        builder = _builder(name)
        _check_options(name, builder, options)
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from torch's default generator
            torch.default_generator.manual_seed(seed)
            return builder(classes=classes, in_channels=in_channels, **options)
    except ModelError:
        raise
    except (ValueError, TypeError) as error:
        raise ModelError(f"{name}: {error}") from error


def check(model: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Refuse a network that does not return ``classes`` logits for images of this shape.

    Args:
        model: is run once, in evaluation mode, on two black images.
        shape: ``(C, H, W)`` of the images.
        classes: expected number of logits.

    Raises:
        ModelError: with the network's own error, or with what it returned.
    """
    try:
        with evaluating(model):
            logits = model(torch.zeros(2, *shape, device=device_in(model)))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        size = "x".join(map(str, shape))
        raise ModelError(f"the network does not take images of {size} (C x H x W): {error}") from error
    if not isinstance(logits, Tensor):
        raise ModelError(f"the network gives a {type(logits).__name__}, not one tensor of logits")
    if logits.shape != (2, classes):
        raise ModelError(f"the network gives {tuple(logits.shape)} for two images, not (2, {classes}) logits")


def check_name(name: str) -> None:
    """Raise a `ModelError` unless there is a network of that name; none is built."""
    _builder(name)


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    if name == "import":
        return external.imported
    if name.startswith(TORCHVISION):
        known, asked = external.torchvision_names(), name.removeprefix(TORCHVISION)
        if asked not in known:
            raise ModelError(f"torchvision has no classifier {asked!r}{among(asked, known)}")
        return partial(external.torchvision_model, asked)
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM))
    others = f"{TORCHVISION}<name>, {TIMM}<name> or import with target=module:function"
    raise ModelError(f"there is no model {name!r}{among(name, names())}; or {others}")


def _of_timm(asked: str) -> Callable[..., nn.Module]:
    known = external.timm_names()
    if asked.partition(".")[0] not in known:
        hint = f"{did_you_mean(asked, known)} timm.list_models() names all {len(known):,} of them"
        raise ModelError(f"timm has no network {asked!r}; {hint.strip()}")
    return partial(external.timm_model, asked)


def _check_options(name: str, builder: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    parameters = {
        key: value for key, value in inspect.signature(builder).parameters.items() if key not in GIVEN
    }
    takes_any = any(value.kind is value.VAR_KEYWORD for value in parameters.values())
    for option in options:
        if option not in parameters and not takes_any:
            choices = among(option, sorted(parameters)) if parameters else "; it takes none"
            raise ModelError(f"{name} has no option {option!r}{choices}")
    for key, value in parameters.items():
        if value.default is value.empty and value.kind is not value.VAR_KEYWORD and key not in options:
            raise ModelError(f"{name} needs the option {key}")
