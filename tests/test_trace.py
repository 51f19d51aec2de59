"""Networks that tracing refuses, channels that it keeps, and cuts that are not exact."""

import re
import types
from pathlib import Path
from typing import Any

import adversaries
import networks
import numpy as np
import pytest
import torch
from networks import Net, conv, head
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import Surgeon, cut
from amc_env.compressors.trial import check, random_plan, try_cut
from amc_env.graph import operations as rules
from amc_env.graph import rule
from amc_env.graph.checker import verify
from amc_env.graph.labels import Labels, TraceError, Tracer
from amc_env.graph.operations import OPERATIONS
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.plan import Plan


def tried(model: nn.Module) -> Graph:
    graph = trace(model, networks.PAIR)
    try_cut(model, graph)
    return graph


def assert_cut_equals_masked(model: nn.Module, graph: Graph) -> None:
    x = networks.pixels(3)
    for seed in range(3):
        plan = networks.random_plan(graph, seed)
        with torch.no_grad():
            expected = masked(model, graph, plan)(x)
            torch.testing.assert_close(cut(model, graph, plan)(x), expected, rtol=0, atol=1e-6)
            for_evaluation = Surgeon(model, graph, fold=True).cut(plan)
            torch.testing.assert_close(for_evaluation(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", adversaries.CUT)
def test_arithmetic_that_follows_the_channels_is_cut_exactly(name: str) -> None:
    middle, parts = adversaries.CUT[name]
    model = networks.ready(adversaries.net(middle, **parts))

    graph = trace(model, networks.PAIR)

    assert graph.notes == ()
    assert not graph.fixed[graph.layer("first").writes].any()
    assert_cut_equals_masked(model, graph)


@pytest.mark.parametrize("name", adversaries.PINNED)
def test_channels_that_cannot_shrink_stay_with_a_note(name: str) -> None:
    middle, parts, note = adversaries.PINNED[name]
    model = networks.ready(adversaries.net(middle, **parts))

    graph = trace(model, networks.PAIR)

    assert re.search(note, "\n".join(graph.notes)), graph.notes
    assert graph.fixed[graph.layer("first").writes].all()
    assert_cut_equals_masked(model, graph)


def test_hooks_are_part_of_the_forward() -> None:
    def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return 2 * output + inputs[0].mean((1, 2, 3), keepdim=True)

    model = networks.ready(networks.chain())
    model[3].register_forward_hook(doubled)
    graph = tried(model)
    assert graph.folds == (("0", "1"),)
    assert re.search("mean .*a reduction over channels", graph.notes[0])
    assert_cut_equals_masked(model, graph)


def by_name(m: Any, x: Tensor) -> Tensor:
    """Every operation with its arguments by name."""
    x = F.conv2d(input=x, weight=m.first.weight, bias=m.first.bias, padding=1)
    x = torch.add(input=F.relu(input=x), other=x)
    x = torch.lerp(input=x, end=m.last(input=x), weight=0.5)
    x = torch.where(condition=torch.gt(input=x, other=0), input=x, other=0.1 * x)
    x = torch.cat(tensors=[x, torch.pow(input=x, exponent=2)], dim=1).mean(dim=(2, 3))
    return F.linear(input=torch.reshape(input=x, shape=(-1, 12)), weight=m.head.weight)


def test_operations_take_their_arguments_by_name() -> None:
    model = networks.ready(Net(by_name, first=conv(2, 6), last=conv(6, 6), head=nn.Linear(12, 3, bias=False)))
    graph = tried(model)
    assert re.search("reshape .*literal number of channels", graph.notes[0])
    assert_cut_equals_masked(model, graph)


def test_a_function_of_the_user_is_followed_whatever_its_name() -> None:
    def relu(x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).expand_as(x)

    graph = tried(networks.ready(adversaries.net(lambda m, x: relu(x))))
    assert re.search("sum .*a reduction over channels", graph.notes[0])


def test_a_user_adds_a_rule() -> None:
    model = networks.ready(adversaries.net(lambda m, x: torch.cummax(x, 2)[0]))
    with pytest.raises(TraceError, match=r"'cummax'.*add a rule"):
        tried(model)

    @rule("cummax")
    def cummax(tracer: Tracer, x: Labels, dim: int) -> tuple[Labels, Labels]:
        return x, x

    try:
        assert_cut_equals_masked(model, tried(model))
    finally:
        del OPERATIONS["cummax"]


def test_every_rule_stands_in_the_rooms_table() -> None:
    page = Path(rules.__file__).with_name("README.md").read_text()
    alike = {*rules.UNARY, *rules.BINARY, *rules.CASTS}
    named = {name.rstrip("_") for name in OPERATIONS} - alike
    assert sorted(name for name in named if f"`{name}`" not in page) == []


def test_a_batch_norm_with_a_hook_is_not_folded() -> None:
    model = networks.ready(networks.chain())
    model[4].register_forward_hook(lambda module, inputs, output: output + 1)
    graph = tried(model)
    assert graph.folds == (("0", "1"),)
    assert_cut_equals_masked(model, graph)


def branch(m: Any, x: Tensor) -> Tensor:
    x = m.first(x).relu()
    return m.head(m.last(x).relu() + x)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.head(m.last(m.first(x).relu()))


def test_a_forward_that_is_bound_to_the_instance_is_the_one_that_is_read() -> None:
    model = networks.ready(Net(plain, first=conv(2, 6), last=conv(6, 6), head=head(6)))
    model.forward = types.MethodType(branch, model)
    graph = tried(model)
    assert [len(group) for group in graph.groups] == [6]
    assert_cut_equals_masked(model, graph)


@pytest.mark.parametrize("again", [("first", "last"), ("last",), ("norm",)])
def test_a_module_under_two_names_is_one(again: tuple[str, ...]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head((m.again[-1] if m.swapped else m.norm)(m.last(m.first(x).relu())))

    model = Net(forward, first=conv(2, 6), last=conv(6, 5), norm=nn.BatchNorm2d(5), head=head(5))
    model.again = nn.ModuleList([getattr(model, name) for name in again])
    model.swapped = again == ("norm",)
    networks.ready(model)
    graph = tried(model)
    assert graph.folds == ()
    assert [layer.name for layer in graph.layers] == ["first", "last", "head.2"]
    small = cut(model, graph, random_plan(graph))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert_cut_equals_masked(model, graph)


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_are_cut_whether_they_are_saved_or_not(persistent: bool) -> None:
    model = adversaries.net(lambda m, x: x * m.gate)
    model.register_buffer("gate", torch.rand(1, 8, 1, 1), persistent=persistent)
    graph = tried(networks.ready(model))
    assert "gate" in {vector.name for vector in graph.vectors}
    assert_cut_equals_masked(model, graph)


def test_what_the_forward_keeps_is_put_back() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.ramp is None:
            m.register_buffer("made", torch.linspace(0, 1, x.size(3)))
            m.ramp = torch.linspace(0, 1, x.size(2)).view(-1, 1)
        m.last_seen = x
        m.count.add_(1)
        return m.head(m.stem(x) * m.ramp + m.made)

    model = Net(forward, stem=conv(2, 4), head=head(4), ramp=None)
    model.register_buffer("count", torch.zeros(()))
    networks.ready(model)
    model.count.zero_()
    graph = tried(model)
    assert model.ramp is None
    assert not hasattr(model, "made")
    assert not hasattr(model, "last_seen")
    assert model.count == 0
    assert_cut_equals_masked(model, graph)


def test_the_cut_network_is_held_against_the_masked_one_on_images() -> None:
    model = networks.ready(networks.residual())
    graph = trace(model, networks.PAIR)
    assert check(model, graph, random_plan(graph), networks.pixels(2)) < 1e-5


def test_the_layer_at_which_cut_and_masked_part_is_named() -> None:
    """Whole numbers that no tracing sees: the batch norm of a copy forgets its scale."""

    class Forgetful(nn.BatchNorm2d):
        def __deepcopy__(self, memo: Any) -> nn.Module:
            copied = nn.BatchNorm2d(self.num_features).eval()
            copied.eps = self.eps + len(memo) * 0 + next(unequal)
            return copied

    unequal = iter((0.0, 5.0))
    model = networks.ready(nn.Sequential(conv(2, 6), Forgetful(6), nn.ReLU(), conv(6, 5), head(5)))
    graph = trace(model, networks.PAIR)
    with pytest.raises(TraceError, match="part at '3'"):
        check(model, graph, random_plan(graph), networks.pixels(2))


def test_a_network_that_returns_nan_equals_nothing() -> None:
    model = networks.ready(nn.Sequential(conv(2, 6), nn.LPPool2d(3, 2), conv(6, 5), head(5)))
    graph = trace(model, networks.PAIR)
    with pytest.raises(TraceError, match="returns NaN or infinite numbers: check the network's weights"):
        check(model, graph, random_plan(graph), networks.pixels(2))


def test_channels_that_can_only_go_together_are_noted() -> None:
    model = nn.Sequential(conv(2, 6), nn.ChannelShuffle(3), conv(6, 6, groups=3), head(6))
    assert trace(networks.ready(model), networks.PAIR).notes == (
        "0: its channels can only be removed all at once",
    )


@pytest.mark.parametrize("training", [True, False])
def test_tracing_leaves_the_network_as_it_was(training: bool) -> None:
    model = networks.ready(networks.residual()).train(training)
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    trace(model, networks.PAIR)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_draw_from_global_generators() -> None:
    model = networks.ready(networks.residual())
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trace(model, networks.PAIR)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


def test_verify_holds_a_network_against_the_mask() -> None:
    model = networks.ready(networks.residual())
    graph = trace(model, networks.PAIR)
    plan = Plan.dense(graph).with_group(0, (0, 2, 3))
    network = Surgeon(model, graph, fold=False).cut(plan)

    verify(network, graph, graph.mask(plan.kept))

    other = Plan.dense(graph).with_group(0, (0, 2))
    with pytest.raises(TraceError, match=r"'conv2d' of 'first'.*takes 3 channels.*use chunk"):
        verify(network, graph, graph.mask(other.kept))


def by_halves(m: Any, x: Tensor) -> Tensor:
    halves = x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).transpose(1, 2)
    return halves.contiguous().view(x.shape)


@pytest.mark.parametrize(
    ("middle", "fits"),
    [
        (by_halves, True),
        (lambda m, x: x.mean((2, 3)).view(x.size(0), -1, 1, 1), True),
        (lambda m, x: x.reshape(x.size(0), -1).unflatten(1, (x.size(1), 8, 8)), True),
        (lambda m, x: x.view(x.size(0), -1).unflatten(1, (x.size(1), 8, 8)), False),
        (lambda m, x: x.flatten(2).view(x.shape), False),
        (lambda m, x: x.view(x.size(0), x.size(1), -1).view(x.size(0), -1).reshape(x.shape), False),
        (lambda m, x: x.view(-1, 64).reshape(x.shape), False),
        (lambda m, x: x.view(1, -1, 8, 8).reshape(x.shape), False),
        (lambda m, x: x.view_as(x.flatten(1)).reshape(x.shape), False),
    ],
)
def test_whether_views_can_be_had_of_images_that_lie_channels_last(middle: Any, fits: bool) -> None:
    graph = tried(networks.ready(adversaries.net(middle)))
    assert graph.channels_last == fits


def test_a_network_of_torch_modules_alone_has_no_line_of_its_own() -> None:
    """The line that called the trace is not the network's."""
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(TraceError, match=r"^'batch_norm' of '1': .*running statistics"):
        trace(nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.Conv2d(8, 4, 3)).eval(), (1, 8, 8))
