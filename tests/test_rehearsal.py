"""Errors that would occur after a search are found before it."""

import pytest
import torch
from torch import nn

from amc_env.building import make_task
from amc_env.data.tensors import from_tensors
from experiments.delivery.rehearsal import Deliverable, RehearsalError, rehearse
from experiments.training.loop import train
from experiments.training.recipe import Recipe, RecipeError

IMAGES = torch.arange(60 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(60, 3, 16, 16)
LABELS = torch.arange(60) % 4


class Careless(nn.Sequential):
    """Its training mode alone is wrong."""

    def forward(self, input):
        found = super().forward(input)
        return found[:, :, None] @ found if self.training else found


def task(side=1, kind=nn.Sequential, middle=()):
    data = from_tensors(IMAGES, LABELS, IMAGES[:12], LABELS[:12], seed=0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    net = kind(*convolutions, *middle, nn.AdaptiveMaxPool2d(side), nn.Flatten(), nn.Linear(8 * side**2, 4))
    return make_task(net.eval(), data, repair="none", order="magnitude", round_to=1)


def test_a_network_that_can_be_delivered_is_left_as_it_was():
    whole = task()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    assert rehearse(whole, tuned=True) == Deliverable("", (".pt2", ".onnx"))
    assert not whole.model.training
    assert all(torch.equal(value, before[name]) for name, value in whole.model.state_dict().items())
    assert all(parameter.grad is None for parameter in whole.model.parameters())


def test_an_operation_that_onnx_lacks_is_told_in_one_line_and_the_rest_is_delivered():
    lines = []
    assert rehearse(task(side=3), tuned=True, say=lines.append) == Deliverable("", (".pt2",))
    (line,) = lines
    assert "cannot be written as ONNX: " in line
    assert line.endswith("delivered without an .onnx file")
    assert len(line) < 600


def test_a_file_that_computes_something_else_is_told_and_not_delivered():
    lines = []
    whole = task(middle=[nn.AvgPool2d(2, divisor_override=3)])  # ONNX's exporter forgets the divisor
    assert rehearse(whole, tuned=True, say=lines.append) == Deliverable("", (".pt2",))
    (line,) = lines
    assert line.startswith("rehearsal.onnx gives logits that differ by ")
    assert line.endswith("delivered without an .onnx file")


def test_what_onnxruntime_cannot_run_is_told_without_the_trial_s_own_file():
    lines = []
    assert rehearse(task(middle=[Double()]), tuned=True, say=lines.append) == Deliverable("", (".pt2",))
    (line,) = lines
    assert line.startswith("onnxruntime cannot run the network: ")
    assert "rehearsal.onnx" not in line
    assert "export it again" not in line


class Double(nn.Module):
    """A convolution in float64, which onnxruntime lacks."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(1, 1, 1, 1, dtype=torch.float64))

    def forward(self, x):
        return nn.functional.conv2d(x.double().mean(1, keepdim=True), self.kernel).float() + x


class Reads(nn.Module):
    """Runs anywhere but in the exporter."""

    def forward(self, x):
        if torch.compiler.is_exporting():
            raise RuntimeError("not here")
        return x


def test_a_network_that_no_file_can_hold_is_delivered_as_weights():
    lines = []
    whole = task()
    whole.model.append(Reads())
    assert rehearse(whole, tuned=False, say=lines.append) == Deliverable("", ())
    assert "as weights and card, without .pt2 and .onnx" in lines[0]


def test_a_frozen_network_is_told_before_the_search_and_before_a_training():
    frozen = task()
    frozen.model.requires_grad_(False)
    with pytest.raises(RehearsalError, match=r"all .* are frozen: call requires_grad_\(True\).*epochs=0"):
        rehearse(frozen, tuned=True)
    rehearse(frozen, tuned=False)
    with pytest.raises(RecipeError, match=r"are frozen: call requires_grad_\(True\) on the network$"):
        train(frozen.model, frozen.data, Recipe(epochs=1))


def test_a_training_mode_that_fails_is_told_where_it_will_be_used():
    with pytest.raises(RehearsalError, match=r"training mode fails: .*finetune\.epochs=0"):
        rehearse(task(kind=Careless), tuned=True)
    rehearse(task(kind=Careless), tuned=False)
