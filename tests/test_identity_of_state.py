"""Parameters, buffers and other state are identified by object, not by name, and survive a cut."""

import functools
import types
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import cut
from amc_env.compressors.trial import try_cut
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace


def built(forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> nn.Module:
    """Two convolutions of six and five channels, a step between them, a classifier."""

    def whole(m: Any, x: Tensor) -> Tensor:
        return m.head(m.second(forward(m, m.first(x))).relu())

    first, second = networks.conv(2, 6), networks.conv(6, 5)
    return networks.ready(networks.Net(whole, first=first, second=second, head=networks.head(5), **parts))


def cut_half(model: nn.Module) -> nn.Module:
    """Cut by a random plan, held against the masked network."""
    graph = trace(model, networks.PAIR)
    plan = networks.random_plan(graph, 3)
    small, images = cut(model, graph, plan).eval(), networks.pixels(4)
    torch.testing.assert_close(small(images), masked(model, graph, plan)(images), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    return small


BUFFERS = {
    "float": torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5, -1.0]),
    "integers": torch.tensor([1, -2, 3, 4, 5, 6]),
    "booleans": torch.tensor([True, False, True, True, False, True]),
}


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_of_every_type_are_cut_with_their_channels(kind: str, persistent: bool) -> None:
    model = built(lambda m, x: x * m.scale[:, None, None])
    model.register_buffer("scale", BUFFERS[kind].clone(), persistent=persistent)
    small = cut_half(model)
    found = small.get_buffer("scale")
    assert found.dtype == BUFFERS[kind].dtype
    assert len(found) == small.first.out_channels < 6
    assert ("scale" in small.state_dict()) == persistent


def test_a_tensor_under_two_names_is_one() -> None:
    model = built(lambda m, x: x * m.scale + m.head.again)
    model.register_buffer("scale", torch.arange(1.0, 7.0).view(6, 1, 1))
    model.head.register_buffer("again", model.scale)
    small = cut_half(model)
    assert torch.equal(small.scale, small.head.again)
    assert len(small.scale) == small.first.out_channels


def test_a_tensor_under_two_names_of_one_module_is_one() -> None:
    model = built(lambda m, x: x * m.again)
    model.register_buffer("scale", torch.arange(1.0, 7.0).view(6, 1, 1))
    model.register_buffer("again", model.scale)
    small = cut_half(model)
    assert small.scale is small.again
    assert len(small.scale) == small.first.out_channels


def test_a_module_under_two_names_is_one() -> None:
    model = built(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(6))
    model.list = nn.ModuleList([model.first, model.norm, model.second])
    small = cut_half(model)
    assert small.list[0] is small.first
    assert small.list[1] is small.norm
    assert small.list[2] is small.second


class WithExtra(nn.Module):
    """Keeps something in the state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = {"scale": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.seen["scale"]

    def get_extra_state(self) -> dict[str, float]:
        return dict(self.seen)

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.seen = dict(state)


def test_extra_state_goes_with_a_cut() -> None:
    model = built(lambda m, x: m.extra(x))
    model.extra = WithExtra()  # which `ready` gives no weights
    small = cut_half(model)
    assert small.state_dict()["extra._extra_state"] == {"scale": 2.0}
    assert small.extra.seen is not model.extra.seen


def test_frozen_parameters_stay_frozen() -> None:
    model = built(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(6))
    model.first.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    small = cut_half(model)
    assert {name for name, value in small.named_parameters() if not value.requires_grad} == frozen
    small.train()(networks.pixels(4)).sum().backward()
    assert small.first.weight.grad is None
    assert small.second.weight.grad is not None


def test_a_layer_that_is_used_twice_is_cut_once() -> None:
    model = built(lambda m, x: m.again(m.again(x).relu()), again=networks.conv(6, 6))
    small = cut_half(model)
    assert small.again.in_channels == small.again.out_channels == small.first.out_channels


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, r"DataParallel wraps the network; pass its \.module"),
        (
            lambda model: torch.compile(model, backend="eager"),
            r"OptimizedModule wraps the network; pass its \._orig_mod",
        ),
        (
            lambda model: torch.jit.trace(model, networks.pixels(2)),
            "a scripted network cannot be traced or cut",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_wrappers_are_refused_in_a_line(wrap: Callable[[nn.Module], nn.Module], message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        trace(wrap(built(lambda m, x: x)), networks.PAIR)
    assert "\n" not in str(caught.value)


def test_a_wrapper_inside_of_a_network_is_followed() -> None:
    model = built(lambda m, x: m.inner(x))
    model.inner = nn.DataParallel(nn.Sequential(networks.conv(6, 6), nn.ReLU())).eval()
    small = cut_half(model)
    assert small.inner.module[0].in_channels == small.first.out_channels


def test_the_mean_of_a_networks_weights_is_cut_as_one() -> None:
    small = cut_half(AveragedModel(built(lambda m, x: x)))
    assert small.n_averaged == 0
    assert small.module.first.out_channels == small.module.second.in_channels


class Pair(nn.Module):
    """Two convolutions and a classifier, with whatever a test changes about how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = networks.conv(2, 6), networks.conv(6, 5), networks.head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


def partly_bound(model: Pair) -> None:
    model.forward = functools.partial(Pair.forward, model)


def bound_inside(model: Pair) -> None:
    model.first.forward = types.MethodType(lambda m, x: 2 * nn.Conv2d.forward(m, x), model.first)


def replaced_in_the_class(model: Pair) -> None:
    model.__class__ = type("Other", (Pair,), {"forward": lambda m, x: Pair.forward(m, -x)})


def called_by_a_method_that_was_kept(model: Pair) -> None:
    call = model.second.forward  # of the dense network's module, which a copy takes along
    model.call = call
    model.__class__ = type("Other", (Pair,), {"forward": lambda m, x: m.head(m.call(m.first(x).relu()))})


def held_in_a_plain_list(model: Pair) -> None:
    model.plain = [model.first, model.second]
    model.__class__ = type("Other", (Pair,), {"forward": lambda m, x: m.head(m.plain[1](m.plain[0](x)))})


@pytest.mark.parametrize(
    "change",
    [
        partly_bound, bound_inside, replaced_in_the_class, called_by_a_method_that_was_kept,
        held_in_a_plain_list,
    ],
)  # fmt: skip
def test_whatever_way_a_forward_takes_is_the_one_that_is_cut(change: Callable[[Pair], None]) -> None:
    model = Pair()
    change(model)
    small = cut_half(networks.ready(model))
    assert small.first.out_channels == small.second.in_channels < 6
    assert sorted(len(group) for group in trace(model, networks.PAIR).groups) == [5, 6]


def test_a_closure_over_a_layer_of_the_dense_network_is_refused() -> None:
    model = networks.ready(Pair())
    first = model.first
    inner = first.forward
    for forward in (inner, lambda x: nn.functional.conv2d(x, first.weight, first.bias, padding=1)):
        first.forward = lambda x, forward=forward: 2 * forward(x)
        graph = trace(model, networks.PAIR)
        with pytest.raises(TraceError, match="by a closure still runs the dense network"):
            try_cut(model, graph)
