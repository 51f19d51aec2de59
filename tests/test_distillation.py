"""Learning from a teacher's logits."""

import math

import pytest
import torch
from torch import nn

from amc_env import checkpoints
from amc_env.data.tensors import from_tensors
from experiments.training.distillation import soft_loss, teacher_of
from experiments.training.loop import train
from experiments.training.recipe import Recipe, RecipeError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (80, 1, 4, 4), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, 3, (80,), generator=GENERATOR)


def data():
    return from_tensors(IMAGES, LABELS, IMAGES[:12], LABELS[:12], seed=0)


def network(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def test_the_soft_loss_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # softened by 2: 3/4 and 1/4
    assert float(soft_loss(student, teacher, 2.0)) == pytest.approx(4 * wanted, rel=1e-5)
    assert float(soft_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)


def test_its_gradient_does_not_vanish_with_the_temperature():
    teacher = torch.tensor([[1.0, -1.0, 0.5]])
    norms = []
    for temperature in (1.0, 10.0):
        student = torch.tensor([[0.0, 0.2, -0.1]], requires_grad=True)
        soft_loss(student, teacher, temperature).backward()
        norms.append(float(student.grad.norm()))
    assert 0.3 < norms[1] / norms[0] < 3


def test_a_student_of_logits_alone_becomes_its_teacher():
    teacher = network(1).eval()
    student = network(2)
    recipe = Recipe(epochs=25, batch_size=40, lr=0.3, weight_decay=0.0, shift=0, distill=1.0)
    before = [value.clone() for value in teacher.state_dict().values()]
    train(student, data(), recipe, teacher=teacher)
    images = data().normalise(IMAGES)
    agreement = (student(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert float(agreement) > 0.95
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True))


def test_no_weight_no_teacher():
    assert teacher_of(Recipe(), network(0), data()) is None
    with pytest.raises(RecipeError, match="give both or neither"):
        train(network(0), data(), Recipe(epochs=1, distill=0.5))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"distill": 1.5}, "distill is 1.5, it is at most 1.0"),
        ({"teacher": "x"}, "teacher=x is given, but distill is 0"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(ValueError, match=told):
        Recipe(**settings)


def test_a_teacher_of_other_classes_or_images_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"gives 5 logits, .* has 3 classes"):
        teacher_of(Recipe(distill=0.5), network(0, classes=5), data())
    with pytest.raises(RecipeError, match=r"cannot take images of \(1, 4, 4\)"):
        teacher_of(
            Recipe(distill=0.5, teacher=str(checkpoints.shipped("plain20-cifar10"))), network(0), data()
        )
