"""What tracing refuses, what it pins, and that a cut which is not exact never gets through."""

import re
from typing import Any

import adversaries
import nets
import numpy as np
import pytest
import torch
from nets import Net, conv, head
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import Surgeon, cut
from amc_env.graph.structure import Graph
from amc_env.graph.trace import TraceError, trace, verify
from amc_env.plan import Plan


def assert_cut_equals_masked(model: nn.Module, graph: Graph) -> None:
    x = nets.images(3)
    for seed in range(3):
        plan = nets.random_plan(graph, seed)
        with torch.no_grad():
            expected = masked(model, graph, plan)(x)
            torch.testing.assert_close(cut(model, graph, plan)(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", adversaries.CUT)
def test_arithmetic_that_follows_the_channels_is_cut_exactly(name: str) -> None:
    middle, parts = adversaries.CUT[name]
    model = nets.ready(adversaries.net(middle, **parts))

    graph = trace(model, nets.SHAPE)

    assert graph.notes == ()
    assert not graph.fixed[graph.layer("first").writes].any()
    assert_cut_equals_masked(model, graph)


@pytest.mark.parametrize("name", adversaries.PINNED)
def test_channels_that_cannot_shrink_stay_with_a_note(name: str) -> None:
    middle, parts, note = adversaries.PINNED[name]
    model = nets.ready(adversaries.net(middle, **parts))

    graph = trace(model, nets.SHAPE)

    assert re.search(note, "\n".join(graph.notes)), graph.notes
    assert graph.fixed[graph.layer("first").writes].all()
    assert_cut_equals_masked(model, graph)


@pytest.mark.parametrize("name", adversaries.REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    middle, parts, message = adversaries.REFUSED[name]
    with pytest.raises(TraceError, match=message):
        trace(nets.ready(adversaries.net(middle, **parts)), nets.SHAPE)


def by_value(m: Any, x: Tensor) -> Tensor:
    return m.head(m.stem(x) if x.sum() > 0 else m.stem(-x))


def by_size(m: Any, x: Tensor) -> Tensor:
    for channel in range(x.size(1)):
        x = x + channel
    return m.head(m.stem(x))


@pytest.mark.parametrize("forward", [by_value, by_size])
def test_control_flow_that_depends_on_the_image_is_refused_with_its_line(forward: Any) -> None:
    model = nets.ready(Net(forward, stem=conv(2, 4), head=head(4)))
    with pytest.raises(TraceError, match=r"test_trace\.py:\d+: .*(if x\.sum|range).*move such a choice"):
        trace(model, nets.SHAPE)


def test_attention_is_refused_by_name() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        tokens = m.stem(x).flatten(2).transpose(1, 2)
        return m.last(m.attention(tokens, tokens, tokens)[0].mean(1))

    parts = {"attention": nn.MultiheadAttention(4, 2, batch_first=True), "last": nn.Linear(4, 3)}
    model = nets.ready(Net(forward, stem=conv(2, 4), **parts))
    with pytest.raises(TraceError, match=r"'attention'.*MultiheadAttention.*convolutional part"):
        trace(model, nets.SHAPE)


def test_a_module_used_on_two_shapes_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.again(m.pool(m.again(m.stem(x)))))

    model = Net(forward, stem=conv(2, 4), again=conv(4, 4), pool=nn.MaxPool2d(2), head=head(4))
    with pytest.raises(TraceError, match=r"'again_1'.*\(8, 8\) and of \(4, 4\).*its own module"):
        trace(nets.ready(model), nets.SHAPE)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        ("chain", (3, 8, 8), r"'0' takes \(N, 2, H, W\), here comes \(1, 3, 8, 8\)"),
        ("flatten_linear", (2, 12, 12), r"'7' takes 12 features, here come 27: .*images of this size"),
        ("flatten_linear", (2, 1, 1), r"'_2' \(call_module 2\) cannot run: .*too small"),
    ],
)
def test_images_of_another_shape_are_refused(net: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(nets.ready(nets.NETS[net]()), shape)


def test_too_small_an_image_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 5), head(4))
    with pytest.raises(TraceError, match=r"images of \(4, 4\) are too small"):
        trace(nets.ready(model), (2, 4, 4))


def test_two_outputs_are_refused() -> None:
    model = Net(lambda m, x: (m.stem(x), x), stem=conv(2, 4))
    with pytest.raises(TraceError, match=r"returns tuple, not one tensor of logits"):
        trace(nets.ready(model), nets.SHAPE)


def test_two_inputs_are_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(TraceError, match=r"'y'.*more than one batch of images"):
        trace(Pair(), nets.SHAPE)


def test_idle_parameters_are_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(x) + m.auxiliary(x) if m.training else m.head(x)

    model = Net(forward, stem=conv(2, 4), head=head(4), auxiliary=head(4))
    with pytest.raises(TraceError, match=r"auxiliary\.2\.weight and 1 more.*set such modules to None"):
        trace(nets.ready(model), nets.SHAPE)


def test_tied_weights_are_refused() -> None:
    model = nets.ready(nn.Sequential(conv(2, 4), conv(4, 4), conv(4, 4), head(4)))
    model[2].weight = model[1].weight
    with pytest.raises(TraceError, match=r"1\.weight and 2\.weight are one tensor"):
        trace(model, nets.SHAPE)


def test_hooks_are_refused() -> None:
    model = nets.ready(nets.chain())
    model[3].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(TraceError, match=r"'3' has forward hooks.*remove them"):
        trace(model, nets.SHAPE)


def test_parametrized_weights_are_refused() -> None:
    model = nets.ready(nets.chain())
    parametrizations.weight_norm(model[3])
    with pytest.raises(TraceError, match=r"'3' has parametrized weights.*remove_parametrizations"):
        trace(model, nets.SHAPE)


@fx.wrap
def relu(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True).expand_as(x)


def test_a_function_of_the_user_is_not_taken_for_ours() -> None:
    model = nets.ready(adversaries.net(lambda m, x: relu(x)))
    with pytest.raises(TraceError, match="'relu' is not understood"):
        trace(model, nets.SHAPE)


def test_channels_that_can_only_go_together_are_noted() -> None:
    model = nn.Sequential(conv(2, 6), nn.ChannelShuffle(3), conv(6, 6, groups=3), head(6))
    assert trace(nets.ready(model), nets.SHAPE).notes == ("0: its channels can only be removed all at once",)


@pytest.mark.parametrize("training", [True, False])
def test_tracing_leaves_the_network_as_it_was(training: bool) -> None:
    model = nets.ready(nets.residual()).train(training)
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    trace(model, nets.SHAPE)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_draw_from_global_generators() -> None:
    model = nets.ready(nets.residual())
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trace(model, nets.SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


def test_verify_holds_a_network_against_the_mask() -> None:
    model = nets.ready(nets.residual())
    graph = trace(model, nets.SHAPE)
    plan = Plan.dense(graph).with_group(0, (0, 2, 3))
    network = Surgeon(model, graph, fold=False).cut(plan)

    verify(network, graph, graph.mask(plan.kept))

    other = Plan.dense(graph).with_group(0, (0, 2))
    with pytest.raises(TraceError, match=r"'first' takes \(N, 3, H, W\).*use chunk"):
        verify(network, graph, graph.mask(other.kept))
