"""A convolution and the ReLU behind it in one operation, where networks are run on a CPU to be evaluated.

A ReLU of its own reads and writes all activations once more, and they seldom fit into a cache. oneDNN, which
PyTorch's convolutions on a CPU are made of, applies it to what it has just multiplied.

It computes the same, but for the last bit where channels do not fill a vector of the processor. Since the
operation is none of PyTorch's documented ones, half the network is run both ways, and where they are further
apart, as it is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from amc_env.compressors.surgery import Surgeon
from amc_env.graph.interpreter import write_down
from amc_env.modes import evaluating
from amc_env.plan import Plan

ROUNDED = 1e-5  # of the largest logit
RELUS = {
    ("call_function", F.relu), ("call_function", torch.relu), ("call_function", torch.relu_),
    ("call_method", "relu"), ("call_method", "relu_"),
}  # fmt: skip


class Activated(nn.Module):
    """A convolution, then ReLU or ReLU6; its weights are those that the convolution has when it is run.

    Args:
        convolution: padded with zeros, by numbers.
        at_most: where the activation is capped; None nowhere.
    """

    def __init__(self, convolution: nn.Conv2d, at_most: float | None = None) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation, self.bounds = ("relu", []) if at_most is None else ("hardtanh", [0.0, at_most])

    def forward(self, x: Tensor) -> Tensor:
        """Activations ``(N, C, H, W)`` float32 on a CPU, in and out."""
        conv = self.convolution
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups,
            self.activation, self.bounds, "",
        )  # fmt: skip
        return y


def fused(surgeon: Surgeon, images: Tensor) -> nn.Module:
    """A surgeon's network in another form, made of the same modules, so that it is cut when they are.

    Args:
        surgeon: whose network is float32 on a CPU; it is cut here.
        images: a batch to try it on.

    Returns:
        the network itself where there is nothing to fuse, or where that computes something else.
    """
    network, form = surgeon.network, rewritten(surgeon.network)
    if form is None:
        return network
    graph = surgeon.graph
    surgeon.cut(Plan(graph.hash, tuple(tuple(range(0, len(group), 2)) for group in graph.groups)))
    with evaluating(network):
        logits = network(images)
        apart = (form(images) - logits).abs().max()
    return form if apart <= ROUNDED * logits.abs().max() else network


def rewritten(network: nn.Module) -> fx.GraphModule | None:
    """A network without its identities, its ReLUs given to convolutions; None where none can be."""
    if not torch.backends.mkldnn.is_available():
        return None
    graph = write_down(network)
    if any(node.op == "get_attr" for node in graph.nodes):
        return None  # a parameter that is read past its module would stay what it is now
    modules = dict(network.named_modules())
    for node in graph.nodes:
        if _is(node, modules, nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    activated: dict[str, nn.Module] = {}
    targets = [node.target for node in graph.nodes]
    for node in graph.nodes:
        if targets.count(node.target) == 1 and _is(node, modules, nn.Conv2d) and len(node.users) == 1:
            conv, user = modules[node.target], next(iter(node.users))
            capped = _is(user, modules, nn.ReLU6)
            relu = capped or (user.op, user.target) in RELUS or _is(user, modules, nn.ReLU)
            if relu and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
                activated[node.target] = Activated(conv, 6.0 if capped else None)
                user.replace_all_uses_with(node)
                graph.erase_node(user)
    return fx.GraphModule(modules | activated, graph).eval() if activated else None


def _is(node: fx.Node, modules: Mapping[str, nn.Module], kind: type[nn.Module]) -> bool:
    """Whether a node calls a module of exactly that kind."""
    return node.op == "call_module" and type(modules[str(node.target)]) is kind
