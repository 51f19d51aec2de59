"""Knowledge distillation: a network learns from another one's logits beside the labels.

*Source*: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env import checkpoints
from amc_env.data.splits import DataSet
from amc_env.execution import evaluating
from experiments.training.recipe import Recipe, RecipeError

TEMPERATURE = 4.0  # within the 2.5 to 20 that Hinton et al. try


def teacher_of(recipe: Recipe, dense: nn.Module, data: DataSet) -> nn.Module | None:
    """A recipe's teacher: the checkpoint that it names, else a copy of the dense network.

    Raises:
        CheckpointError: for a checkpoint that cannot be read.
        RecipeError: for a teacher of other images or classes.
    """
    if not recipe.distill:
        return None
    if recipe.teacher is None:
        teacher = copy.deepcopy(dense)
    else:
        teacher, _ = checkpoints.load(recipe.teacher.removesuffix(".json").removesuffix(".safetensors"))
    name = "the dense network" if recipe.teacher is None else recipe.teacher
    images, _ = next(data.batches("calibration", 2))
    try:
        with evaluating(teacher):
            logits = teacher(images)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(
            f"the teacher {name} cannot take images of {data.shape}: {error}; give one of this data set"
        ) from error
    if logits.shape != (len(images), data.classes):
        raise RecipeError(
            f"the teacher {name} gives {logits.shape[1]} logits, {data.name} has {data.classes} classes: "
            "give a teacher of the same classes"
        )
    return teacher.requires_grad_(False).eval()


def soft_loss(logits: Tensor, taught: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T² KL(teacher ‖ student) of softened probabilities: its gradients are on the scale of cross-entropy's.

    Args:
        logits: ``(n, classes)`` of the student.
        taught: ``(n, classes)`` of the teacher.
        temperature: T, above 0.
    """
    student, teacher = (F.log_softmax(each.float() / temperature, dim=1) for each in (logits, taught))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def teach(teacher: nn.Module, images: Tensor) -> Tensor:
    """The teacher's logits; no gradient flows into it."""
    with torch.no_grad():
        found: Tensor = teacher(images)
    return found
