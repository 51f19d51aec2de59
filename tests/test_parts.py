"""Layers that stay whole, and convolutions whose input is padded by the forward."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.building import make_task
from amc_env.card import Card
from amc_env.compressors.surgery import cut
from amc_env.compressors.trial import random_plan, try_cut
from amc_env.data.tensors import from_tensors
from amc_env.execution import lay_out
from amc_env.graph.given import Given, Sizes
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace
from amc_env.repair.moments import collect

IMAGES = torch.arange(60 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(60, 3, 8, 8)
DATA = from_tensors(IMAGES, torch.arange(60) % 4, IMAGES[:12], torch.arange(12) % 4, seed=0)


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Sequential(nn.Conv2d(5, 6, 1)), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("names", "sizes"), [((), [4, 5, 6]), (("1",), [6]), (("2",), [4]), (("5",), [4, 5]), (("0", "5"), [5])]
)
def test_a_layer_that_stays_whole_loses_nothing_on_either_side(names, sizes):
    model = chain()
    graph = trace(model, (3, 8, 8), keep_whole=names)
    assert [len(group) for group in graph.groups] == sizes
    assert graph.keep_whole == names
    small = cut(model, graph, random_plan(graph))
    for name in names:
        for (key, before), after in zip(
            model.get_submodule(name).named_parameters(), small.get_submodule(name).parameters(), strict=True
        ):
            assert torch.equal(before, after), key


def test_layers_that_stay_whole_by_a_name_that_there_is_not():
    with pytest.raises(TraceError, match="'3', in which there is no layer that is cut"):
        trace(chain(), (3, 8, 8), keep_whole=["3"])
    with pytest.raises(TraceError, match=r"'2\.1', which is no module .* did you mean 2\.0"):
        make_task(chain(), DATA, keep_whole=["2.1"])


def test_a_checkpoint_remembers_what_stays_whole(tmp_path):
    model = zoo.build("digits_cnn", classes=10, in_channels=1).eval()
    whole = next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    graph = trace(model, (1, 8, 8), keep_whole=[whole])
    small = cut(model, graph, plan := random_plan(graph))
    card = Card("digits_cnn", 10, 1, "digits", (1, 8, 8), 0, "0", plan=plan.to_dict(), keep_whole=[whole])
    weights.save(tmp_path / "net", small, card)
    again, found = weights.load(tmp_path / "net")
    assert found.keep_whole == [whole]
    assert torch.equal(again(torch.ones(1, 1, 8, 8)), small.eval()(torch.ones(1, 1, 8, 8)))


def test_what_a_part_is_given_survives_json():
    given = Given("a.b", ([Sizes((1, 3, 8, 8)), 2], {"x": (Sizes((1, 4)), None)}), {"flag": True})
    assert Given.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    for damaged in (
        {},
        {"part": 3, "args": [], "kwargs": {}},
        {"part": "a", "args": {"set": []}, "kwargs": {}},
    ):
        with pytest.raises(TraceError, match="is not written as it should be"):
            Given.from_dict(damaged)


class PadsItself(nn.Conv2d):
    """A stride of 2 and all its padding right and below, as TensorFlow has it."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0)


@pytest.mark.parametrize(
    "second",
    [
        PadsItself(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(1, 2)),
        nn.Conv2d(4, 4, 3, padding=(1, 0), padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, stride=2, padding=(0, 2)),
        nn.Conv2d(4, 4, 3, padding="valid"),
    ],
)
def test_moments_are_of_what_a_convolution_reads_however_it_is_padded(second):
    """With all positions sampled, W E[x xᵀ] Wᵀ is the mean square of the outputs."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), second, nn.Flatten(), nn.LazyLinear(4)).eval()
    model[2].bias.data.zero_()
    model(torch.zeros(1, 3, 8, 8))
    graph = trace(model, (3, 8, 8))
    try_cut(model, graph)
    moments = collect(model, graph, DATA, images=6, points=100, seed=0)
    rows = moments.rows.get("2")
    gram = moments.grams["2"][0] if rows is None else (rows[0].mT @ rows[0] / rows.size(1)).double()
    weight = model[2].weight.detach().flatten(1).double()
    outputs = model[:3](next(DATA.batches("calibration", 6))[0]).detach().double()
    torch.testing.assert_close(
        (weight @ gram * weight).sum(1), outputs.square().mean((0, 2, 3)), rtol=1e-4, atol=0
    )


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(x.size(0), -1))


def test_only_tensors_of_four_dimensions_are_laid_channels_last():
    """A detector's anchors have five."""
    model = chain()
    model.register_buffer("anchors", torch.ones(1, 3, 1, 1, 2))
    assert lay_out(model, torch.randn(2, 3, 8, 8)) == torch.channels_last
    kernels = [value for value in model.parameters() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)
    assert model.anchors.is_contiguous()


def test_a_network_whose_views_need_the_default_format_is_left_in_it():
    images = torch.randn(2, 3, 8, 8)
    expected = (model := Views().eval())(images)
    assert lay_out(model, images) == torch.contiguous_format
    assert torch.equal(model(images), expected)
    assert lay_out(chain(), images) == torch.channels_last
    with pytest.raises(RuntimeError, match="channels"):
        lay_out(model, torch.randn(2, 4, 8, 8))
