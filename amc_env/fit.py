"""Checks that a network and its data fit, before any long work."""

from typing import Any

import torch
from torch import Tensor, nn

from amc_env.data.own import OwnData
from amc_env.data.splits import DataError, DataSet
from amc_env.evaluator import culprit
from amc_env.execution import device_in, evaluating
from amc_env.metrics import EvaluationError


def check_fit(model: nn.Module, data: DataSet | OwnData, *, logits: bool = True) -> bool:
    """Run a model on the first images of the calibration split.

    Args:
        model: run where it is.
        data: what it is run on.
        logits: whether it has to return a logit for each class; False if a metric of the user's own
            measures it.

    Returns:
        Whether it returns logits and the data have class labels; only then can it be fine-tuned.

    Raises:
        DataError: when the model does not take the images, or does not return a logit for each class.
        EvaluationError: when its logits are not finite.
    """
    images, _ = next(data.batches("calibration", 2))
    name = type(model).__name__
    try:
        with evaluating(model):
            found = model(images)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(
            f"{name} cannot take the images of {data.name}, {data.shape} each: {error}. {_advice(model)}"
        ) from error
    fits = _classifies(found, (len(images), data.classes))
    classifies = fits and isinstance(data, DataSet)
    if logits and fits and not classifies:
        raise DataError(
            f"{data.name} has no class labels: give a DataSet, say of from_tensors, or, where there is one, "
            "your own metric=module:function"
        )
    if logits and not classifies:
        given = f"{tuple(found.shape[1:])} outputs" if isinstance(found, Tensor) else type(found).__name__
        raise DataError(
            f"{name} gives {given} for an image, {data.name} has {data.classes} classes; "
            "build it with as many, choose other data, or measure it yourself: metric=module:function"
        )
    if isinstance(found, Tensor) and not bool(found.isfinite().all()):
        raise EvaluationError(f"the logits of {name} are not finite: {culprit(model)}")
    return classifies


def _advice(model: nn.Module) -> str:
    device = device_in(model)
    if device.type == "meta":
        return "Its weights are on the device meta, which holds no values: load them first"
    if device.type != "cpu":
        return f"It is on {device}: call .cpu() on it first; device= says where plans are evaluated"
    kinds = {value.dtype for value in model.parameters() if value.is_floating_point()} - {torch.float32}
    if kinds:
        return f"Its weights are {' and '.join(sorted(map(str, kinds)))}: call .float() on it first"
    return "Build it with in_channels and a resolution that match, or choose other data"


def _classifies(found: Any, shape: tuple[int, int]) -> bool:
    return isinstance(found, Tensor) and found.shape == shape
