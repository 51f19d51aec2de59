"""Networks that tracing refuses, each with a message that names the reason."""

import copy
import types
from typing import Any

import adversaries
import networks
import pytest
import torch
from networks import Net, conv, head
from test_trace import branch, plain, tried
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from amc_env.compressors.trial import try_cut
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace


@pytest.mark.parametrize("name", adversaries.REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    middle, parts, message = adversaries.REFUSED[name]
    with pytest.raises(TraceError, match=message):
        tried(networks.ready(adversaries.net(middle, **parts)))


def test_a_loop_over_channels_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for channel in range(x.size(1)):
            x = x + channel
        return m.head(x)

    model = networks.ready(Net(forward, stem=conv(2, 4), head=head(4)))
    with pytest.raises(TraceError, match="depends on the number of channels"):
        tried(model)


def test_attention_is_refused_by_name() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        tokens = m.stem(x).flatten(2).transpose(1, 2)
        return m.last(m.attention(tokens, tokens, tokens)[0].mean(1))

    parts = {"attention": nn.MultiheadAttention(4, 2, batch_first=True), "last": nn.Linear(4, 3)}
    model = networks.ready(Net(forward, stem=conv(2, 4), **parts))
    with pytest.raises(
        TraceError, match=r"'multi_head_attention_forward' of 'attention'.*convolutional part"
    ):
        trace(model, networks.PAIR)


def test_a_module_used_on_two_shapes_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.again(m.pool(m.again(m.stem(x)))))

    model = Net(forward, stem=conv(2, 4), again=conv(4, 4), pool=nn.MaxPool2d(2), head=head(4))
    with pytest.raises(TraceError, match=r"'conv2d' of 'again'.*\(8, 8\) and of \(4, 4\).*its own module"):
        trace(networks.ready(model), networks.PAIR)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        ("chain", (3, 8, 8), r"'conv2d' of '0'.*takes 2 channels, not \(1, 3, 8, 8\)"),
        (
            "flatten_linear",
            (2, 12, 12),
            r"'linear' of '7'.*takes 12 channels, not \(1, 27\): .*images of this size",
        ),
        ("flatten_linear", (2, 1, 1), r"'max_pool2d' of '2'.*cannot run: .*too small"),
    ],
)
def test_images_of_another_shape_are_refused(net: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(networks.ready(networks.NETS[net]()), shape)


def test_too_small_an_image_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 5), head(4))
    with pytest.raises(TraceError, match=r"images of \(4, 4\) are too small"):
        trace(networks.ready(model), (2, 4, 4))


def test_two_outputs_are_refused() -> None:
    model = Net(lambda m, x: (m.stem(x), x), stem=conv(2, 4))
    with pytest.raises(TraceError, match=r"returns tuple, not one tensor of logits"):
        trace(networks.ready(model), networks.PAIR)


def test_two_inputs_are_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(TraceError, match=r"Pair cannot run on an image of \(2, 8, 8\).*'y'"):
        trace(Pair(), networks.PAIR)


def test_idle_parameters_are_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(x) + m.auxiliary(x) if m.training else m.head(x)

    model = Net(forward, stem=conv(2, 4), head=head(4), auxiliary=head(4))
    with pytest.raises(TraceError, match=r"auxiliary\.2\.weight and 1 more.*set such modules to None"):
        trace(networks.ready(model), networks.PAIR)


def test_tied_weights_are_refused() -> None:
    model = networks.ready(nn.Sequential(conv(2, 4), conv(4, 4), conv(4, 4), head(4)))
    model[2].weight = model[1].weight
    with pytest.raises(TraceError, match=r"1\.weight and 2\.weight are one tensor"):
        trace(model, networks.PAIR)


def test_parametrized_weights_are_refused() -> None:
    model = networks.ready(networks.chain())
    parametrizations.weight_norm(model[3])
    with pytest.raises(TraceError, match=r"'3' has parametrized weights.*remove_parametrizations"):
        trace(model, networks.PAIR)


@pytest.mark.parametrize(
    "changed",
    [
        lambda layer: torch.nn.utils.spectral_norm(layer),
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ],
)
def test_weights_that_a_hook_computes_are_refused(changed: Any) -> None:
    model = networks.ready(networks.chain())
    changed(model[3])
    with pytest.raises(TraceError, match=r"computes the weight of module '3'; make it plain.*prune\.remove"):
        trace(model, networks.PAIR)


def test_a_lazy_layer_is_refused_until_it_has_weights() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), head(4)).eval()
    with pytest.raises(TraceError, match="'0' is lazy and has no weights yet; run the network on an image"):
        trace(model, networks.PAIR)
    model(networks.pixels(2))
    assert len(tried(model).groups) == 1


def test_a_closure_over_the_dense_network_is_refused_with_what_to_do() -> None:
    model = networks.ready(Net(plain, first=conv(2, 6), last=conv(6, 6), head=head(6)))
    model.forward = lambda x: branch(model, x)
    graph = trace(model, networks.PAIR)
    with pytest.raises(TraceError, match=r"closure.*types\.MethodType"):
        try_cut(model, graph)


def test_wrappers_are_refused_in_a_line() -> None:
    model = networks.ready(networks.chain())
    with pytest.raises(TraceError, match=r"DataParallel wraps the network; pass its \.module"):
        trace(nn.DataParallel(model), networks.PAIR)
    with pytest.raises(TraceError, match=r"wraps the network; pass its \._orig_mod"):
        trace(torch.compile(model), networks.PAIR)


@pytest.mark.parametrize("bound", [False, True])
def test_a_forward_of_the_instance_computes_with_its_own_modules_or_is_told(bound: bool) -> None:
    """A function that closes over a network goes on with that network's modules in a copy."""
    model = networks.ready(networks.chain())
    if bound:
        model.forward = types.MethodType(type(model).forward, model)
    else:
        original, kind = model, type(model)
        model.forward = lambda x: kind.forward(original, x)
    copied = copy.deepcopy(model)
    if bound:
        assert trace(copied, networks.PAIR).groups
        return
    with pytest.raises(
        TraceError, match=r"and \d+ more parameters are unused .* bind it with types\.MethodType"
    ):
        trace(copied, networks.PAIR)
