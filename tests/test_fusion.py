"""Convolutions and their ReLUs in one operation: the same logits, of what the modules are filled with."""

import pickle

import pytest
import torch
from networks import NETWORKS, SHAPE, images, network
from torch import fx, nn
from torch.nn import functional as F

from amc_env.compressors.surgery import Surgeon, drop
from amc_env.evaluator import Evaluator
from amc_env.execution import Execution
from amc_env.fusion import Activated, fused, rewritten
from amc_env.graph.trace import trace
from amc_env.modes import evaluating
from amc_env.plan import Plan

DATA = images()
SIZE = 16


class Net(nn.Module):
    """Two convolutions, and a forward that is given as a function of them, of an activation and of images."""

    def __init__(self, forward, relu=None, **conv):
        super().__init__()
        self.body, self.relu = forward, relu or nn.ReLU()
        self.one = nn.Conv2d(SHAPE[0], SIZE, 3, **{"padding": 1} | conv)
        self.two, self.head = nn.Conv2d(SIZE, SIZE, 3, padding=1), nn.Linear(SIZE, 3)

    def forward(self, x):
        return self.head(self.body(self, x).mean((2, 3)))


def surgeon_of(model):
    return Surgeon(model.eval(), trace(model, SHAPE), fold=True)


def batch_of(count=8):
    batch = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return batch.contiguous(memory_format=torch.channels_last)


def activated(form):
    return [name for name, module in form.named_modules() if isinstance(module, Activated)]


def test_an_activated_convolution_by_hand():
    """One channel, one weight: y = min(max(2 x - 1, 0), 6)."""
    conv = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.fill_(2.0)
        conv.bias.fill_(-1.0)
    x = torch.tensor([-1.0, 0.5, 1.0, 5.0]).view(4, 1, 1, 1)
    with torch.inference_mode():
        assert Activated(conv)(x).flatten().tolist() == [0.0, 0.0, 1.0, 9.0]
        assert Activated(conv, 6.0)(x).flatten().tolist() == [0.0, 0.0, 1.0, 6.0]
        conv.weight = nn.Parameter(torch.full((1, 1, 1, 1), 3.0))
        assert Activated(conv)(x).flatten().tolist() == [0.0, 0.5, 2.0, 14.0]


FUSED = {
    "module": (lambda net, x: net.relu(net.one(x)), ["one"]),
    "shared module": (lambda net, x: net.relu(net.two(net.relu(net.one(x)))), ["one", "two"]),
    "function": (lambda net, x: F.relu(net.one(x)), ["one"]),
    "method": (lambda net, x: net.one(x).relu(), ["one"]),
    "in place": (lambda net, x: net.one(x).relu_(), ["one"]),
    "only where it follows": (lambda net, x: net.two(net.relu(net.one(x))), ["one"]),
}
LEFT = {
    "no activation": lambda net, x: net.two(net.one(x)),
    "read twice": lambda net, x: (lambda y: net.relu(y) + y)(net.one(x)),
    "run twice": lambda net, x: net.two(net.two(net.one(x)).relu()),
    "another activation": lambda net, x: F.gelu(net.one(x)),
    "behind an addition": lambda net, x: F.relu(net.two(net.one(x)) + 1.0),
    "a parameter of the network": lambda net, x: net.one.bias.sum() * net.relu(net.one(x)),
}


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6])
def test_what_is_fused(case, relu):
    body, expected = FUSED[case]
    model = Net(body, relu()).eval()
    form = rewritten(model)
    assert activated(form) == expected
    with evaluating(model):
        assert torch.allclose(form(batch_of()), model(batch_of()), atol=1e-6)


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_as_it_is(case):
    assert rewritten(Net(LEFT[case]).eval()) is None


def test_a_module_called_relu_is_what_it_is():
    assert rewritten(Net(FUSED["module"][0], nn.LeakyReLU()).eval()) is None


@pytest.mark.parametrize("conv", [{"padding": "same"}, {"padding_mode": "reflect"}])
def test_paddings_of_another_kind_are_left_as_they_are(conv):
    assert rewritten(Net(FUSED["module"][0], **conv).eval()) is None


def test_without_onednn_nothing_is_fused(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert rewritten(Net(FUSED["module"][0]).eval()) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_cut_when_the_network_is(name):
    model = network(name)
    surgeon = surgeon_of(model)
    form, batch = fused(surgeon, batch_of()), batch_of()
    groups = surgeon.graph.groups
    for start in (0, 1):
        plan = Plan(surgeon.graph.hash, tuple(tuple(range(start, len(group), 2)) or (0,) for group in groups))
        with evaluating(surgeon.cut(plan)) as cut:
            assert torch.allclose(form(batch), cut(batch), atol=1e-5)


def test_a_form_that_computes_something_else_is_not_taken(monkeypatch):
    surgeon = surgeon_of(Net(FUSED["shared module"][0]))
    assert fused(surgeon, batch_of()) is not surgeon.network
    monkeypatch.setattr(Activated, "forward", lambda self, x: self.convolution(x))
    assert fused(surgeon, batch_of()) is surgeon.network


def test_who_fuses():
    assert Execution().fuses
    for other in (Execution(torch.device("cuda")), Execution(bfloat16=True), Execution(compile=True)):
        assert not other.fuses


@pytest.mark.parametrize("prefixes", [0, 2**24])
def test_an_evaluator_measures_the_same(prefixes, monkeypatch):
    model = network("chain")
    graph = trace(model, SHAPE)
    plans = [
        Plan(graph.hash, tuple(tuple(range(i, len(group), 2)) for group in graph.groups)) for i in (0, 1)
    ]
    evaluator = Evaluator(model, graph, DATA, drop, prefixes=prefixes)
    assert isinstance(evaluator._form, fx.GraphModule)
    found = [evaluator(plan) for plan in plans]
    again = pickle.loads(pickle.dumps(evaluator))
    again._seen.clear()
    assert [again(plan) for plan in plans] == found
    monkeypatch.setattr(Execution, "fuses", False)
    plain = Evaluator(model, graph, DATA, drop, prefixes=prefixes)
    assert plain._form is plain._surgeon.network
    for plan, one in zip(plans, found, strict=True):
        assert plain(plan).loss == pytest.approx(one.loss, rel=1e-5)
        assert plain(plan).top1 == one.top1
