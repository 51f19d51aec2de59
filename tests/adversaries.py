"""Networks that compute with channel counts, and what tracing must do with each of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from networks import Net, conv, head
from torch import Tensor, nn
from torch.nn import functional as F

Middle = Callable[[Any, Tensor], Tensor]


def net(middle: Middle, width: int = 8, **parts: Any) -> nn.Module:
    """A convolution to 8 channels, something peculiar that leaves ``width`` of them, then two layers more."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.last(middle(m, m.first(x))).relu())

    return Net(forward, first=conv(2, 8), last=conv(width, 6), **parts, head=head(6))


def gathered(m: Any, x: Tensor) -> Tensor:
    a, b = x.split([x.size(1) // 4, x.size(1) - x.size(1) // 4], 1)
    return torch.cat([a, b], 1)


def added_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.other(x)
    y.add_(x)  # the result is not used, the change is
    return F.relu_(y)


def halves_by_split(m: Any, x: Tensor) -> Tensor:
    a, b = x.split(x.shape[1] // 2, dim=1)
    return torch.cat([b, a], dim=1)


def mixed_stack(m: Any, x: Tensor) -> Tensor:
    return torch.stack([x, m.other(x)], dim=2).flatten(1, 2)


def in_steps(m: Any, x: Tensor) -> Tensor:
    for _ in range(3 if x.size(2) == 8 else 1):  # a branch on a size is one that every plan takes
        x = m.other(x).relu() + x
    return x


def channel_attention(m: Any, x: Tensor) -> Tensor:
    weights = m.along(x.mean((2, 3)).view(x.size(0), 1, -1)).sigmoid()
    return x * weights.view(x.size(0), -1, 1, 1)


def response_norm(m: Any, x: Tensor) -> Tensor:
    length = x.norm(p=2, dim=(2, 3), keepdim=True)
    return torch.addcmul(x, m.scale.view(1, -1, 1, 1), x * (length / (length.mean(1, keepdim=True) + 1e-6)))


def written_into_zeros(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(1, 8, 8, 8)
    total.add_(x)
    return total


def written_by_index(m: Any, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


# Each is cut, and what is left computes what the masked network computes.
CUT: dict[str, tuple[Middle, dict[str, Any]]] = {
    "add_": (added_in_place, {"other": conv(8, 8)}),
    "flip": (lambda m, x: torch.flip(x, [1]), {}),
    "torch.special": (lambda m, x: torch.special.expit(x) + F.logsigmoid(torch.special.erf(x)), {}),
    "flip of positions": (lambda m, x: x.flip(2, 3), {}),
    "split into computed halves": (halves_by_split, {}),
    "repeat": (lambda m, x: x.repeat(1, 2, 1, 1), {"width": 16}),
    "repeat_interleave": (lambda m, x: x.repeat_interleave(2, dim=1), {"width": 16}),
    "stack and flatten": (mixed_stack, {"other": conv(8, 8), "width": 16}),
    "stack and sum": (lambda m, x: torch.stack([x, m.other(x)]).sum(0), {"other": conv(8, 8)}),
    "concatenation of positions": (lambda m, x: torch.cat([x, m.other(x)], 2), {"other": conv(8, 8)}),
    "view by fours": (lambda m, x: x.view(x.size(0), x.size(1) // 4, 4, 8, 8).sum(2), {"width": 2}),
    "view of two halves": (lambda m, x: x.unflatten(1, (2, -1)).mean(1), {"width": 4}),
    "a branch on a size and a loop": (in_steps, {"other": conv(8, 8)}),
    "all by a literal end": (lambda m, x: x[:, :8], {}),
    "unbind of halves": (
        lambda m, x: sum(x.unflatten(1, (2, -1)).unbind(1)),
        {"width": 4},
    ),
    "glu": (lambda m, x: F.glu(x, 1), {"width": 4}),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(x, 2), {"width": 2}),
    "pixel unshuffle": (lambda m, x: F.pixel_unshuffle(x, 2), {"width": 32}),
    "roll of positions": (lambda m, x: x.roll((1, 2), (2, 3)), {}),
    "addcmul": (lambda m, x: torch.addcmul(x, x, m.other(x), value=0.5), {"other": conv(8, 8)}),
    "maximum over positions": (lambda m, x: x.max(3)[0].max(2).values[..., None, None] + x, {}),
    "masked fill": (lambda m, x: x.masked_fill(x < 0, 0.1), {}),
    "instance norm": (lambda m, x: m.norm(x), {"norm": nn.InstanceNorm2d(8, affine=True)}),
    "batch norm by function": (
        lambda m, x: F.batch_norm(x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias),
        {"norm": nn.BatchNorm2d(8)},
    ),
    "group norm by function": (
        lambda m, x: F.group_norm(x, 2, m.norm.weight, m.norm.bias),
        {"norm": nn.GroupNorm(2, 8)},
    ),
    "layer norm by torch's keywords": (
        lambda m, x: torch.layer_norm(
            x.movedim(1, -1), normalized_shape=(x.size(1),), weight=m.gain, bias=m.gain
        ).movedim(-1, 1),
        {"gain": nn.Parameter(torch.ones(8))},
    ),
    "group norm by torch's keywords": (
        lambda m, x: torch.group_norm(input=x, num_groups=1, weight=m.norm.weight, bias=m.norm.bias),
        {"norm": nn.GroupNorm(1, 8)},
    ),
    "layer norm by function": (
        lambda m, x: F.layer_norm(x.movedim(1, -1), (x.size(1),), m.gain).movedim(-1, 1),
        {"gain": nn.Parameter(torch.ones(8))},
    ),
    "group norm of torch": (
        lambda m, x: torch.group_norm(x, 2, m.norm.weight, m.norm.bias),
        {"norm": nn.GroupNorm(2, 8)},
    ),
    "layer norm of torch": (
        lambda m, x: torch.layer_norm(x.movedim(1, -1), (x.size(1),), m.gain).movedim(-1, 1),
        {"gain": nn.Parameter(torch.ones(8))},
    ),
    "threshold": (lambda m, x: F.threshold(x, 0.1, 0.2), {}),
    "vector norm": (lambda m, x: x / torch.linalg.vector_norm(x, 2, (2, 3), True), {}),
    "view by size": (lambda m, x: x.view(size=(x.size(0), -1, 64)).view(size=x.shape), {}),
    "convolution by function": (
        lambda m, x: F.conv2d(F.pad(x, (1, 1, 1, 1)), m.other.weight, m.other.bias),
        {"other": nn.Conv2d(8, 8, 3)},
    ),
    "linear by function": (
        lambda m, x: F.linear(x.movedim(1, -1), m.other.weight).movedim(-1, 1),
        {"other": nn.Linear(8, 8, bias=False)},
    ),
    "convolution and batch norm by function": (
        lambda m, x: F.batch_norm(
            F.conv2d(x, m.other.weight), m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias
        ),
        {"other": conv(8, 8, 1, bias=False), "norm": nn.BatchNorm2d(8)},
    ),
    "convolution by function, batch norm by module": (
        lambda m, x: m.norm(F.conv2d(x, m.other.weight)),
        {"other": conv(8, 8, 1, bias=False), "norm": nn.BatchNorm2d(8)},
    ),
    "a parameter that is expanded": (
        lambda m, x: x * m.gain.expand_as(x) + m.gain.to(x),
        {"gain": nn.Parameter(torch.ones(1, 8, 1, 1))},
    ),
    "prelu by function": (lambda m, x: F.prelu(x, m.slope), {"slope": nn.Parameter(torch.ones(8))}),
    "by keyword": (lambda m, x: m.other(input=x), {"other": conv(8, 8)}),
    "a vector that is computed": (
        lambda m, x: x * (m.gain.abs() + 1).view(1, -1, 1, 1),
        {"gain": nn.Parameter(torch.ones(8))},
    ),
    "where": (lambda m, x: torch.where(x > 0, x, m.other(x)), {"other": conv(8, 8)}),
    "padding by zeros": (
        lambda m, x: torch.cat([x, x.new_zeros(x.size(0), 3, x.size(2), x.size(3))], dim=1),
        {"width": 11},
    ),
    "halves of channels beside each other": (
        lambda m, x: m.four(x.view(x.size(0), x.size(1) // 2, 16, 8)),
        {"four": conv(4, 8)},
    ),
    "NumPy's names": (
        lambda m, x: x.mean(axis=(2, 3), keepdims=True) + torch.max(x, axis=2, keepdim=True)[0],
        {},
    ),
    "NumPy's name of a softmax's positions": (lambda m, x: x.softmax(axis=2), {}),
    "softmax over positions": (lambda m, x: x.flatten(2).softmax(2).view(x.shape), {}),
    "a mask of positions": (lambda m, x: x * torch.ones(8, 1), {}),
    "a scalar parameter": (lambda m, x: x * m.scale, {"scale": nn.Parameter(torch.ones(1))}),
    "max pooling by function": (lambda m, x: F.adaptive_max_pool2d(F.max_pool2d(x, 2), 3), {}),
    "resizing": (lambda m, x: F.interpolate(x, scale_factor=2.0), {}),
    "positions by their number": (lambda m, x: x.sum((2, 3), keepdim=True) / (x.size(2) * x.size(3)) + x, {}),
}

# In each some channels must stay, and a note says at which node and why.
PINNED: dict[str, tuple[Middle, dict[str, Any], str]] = {
    "norm of responses": (
        lambda m, x: m.norm(x),
        {"norm": nn.LocalResponseNorm(3)},
        "local_response_norm of 'norm'.*neighbouring channels",
    ),
    "first four": (lambda m, x: x[:, :4], {"width": 4}, "getitem .*: an index that takes some"),
    "all but two": (lambda m, x: x[:, : x.size(1) - 2], {"width": 6}, "getitem .*: an index that takes some"),
    "every other": (lambda m, x: x[:, ::2], {"width": 4}, "getitem .*: an index that takes some"),
    "a permutation": (
        lambda m, x: x[:, [3, 2, 1, 0, 7, 6, 5, 4]],
        {},
        "getitem .*: an index that takes some",
    ),
    "last of an ellipsis": (
        lambda m, x: x.permute(0, 2, 3, 1)[..., 2:].permute(0, 3, 1, 2),
        {"width": 6},
        "an index that takes some",
    ),
    "zeros beside the positions": (
        lambda m, x: torch.cat([x, x.new_zeros(x.size(0), x.size(1), x.size(2), 2)], dim=3),
        {},
        r"cat .*: joined along positions with a tensor that is no activation \(F\.pad pads",
    ),
    "one column of zeros": (
        lambda m, x: torch.cat([x.new_zeros(x.size(0), x.size(1), x.size(2), 1), x], dim=-1),
        {},
        r"cat .*: joined along positions with a tensor that is no activation \(F\.pad pads",
    ),
    "view of a NumPy integer": (
        lambda m, x: x.view(-1, np.int64(8), 4, 16),
        {},
        "view .*: a view with a literal number",
    ),
    "view of a literal": (lambda m, x: x.view(-1, 8, 4, 16), {}, "view .*: a view with a literal number"),
    "reshape of all literals": (
        lambda m, x: x.reshape(-1, 2, 4, 8, 8).sum(1),
        {"width": 4},
        "reshape .*: a view with a literal number",
    ),
    "unflatten of literals": (
        lambda m, x: x.unflatten(1, (2, 4)).sum(2),
        {"width": 2},
        "unflatten .*: a view",
    ),
    "split of a literal": (lambda m, x: torch.cat(x.split(4, 1), 1), {}, "split .*: a split of literal"),
    "split of unequal parts": (gathered, {}, "split .*: a split of literal or unequal"),
    "a split of copies": (
        lambda m, x: torch.cat([x, x], 1).split(8, 1)[1],
        {},
        "split .*: a split of literal",
    ),
    "chunk into unequal parts": (
        lambda m, x: torch.cat(x.chunk(3, 1), 1),
        {},
        "chunk .*: a chunk into unequal",
    ),
    "expand of a literal": (lambda m, x: x.expand(-1, 8, 8, 8), {}, "expand .*: an expand to a literal"),
    "expand of a channel": (
        lambda m, x: x + m.one(x).expand(-1, 8, -1, -1),
        {"one": conv(8, 1)},
        "expand .*: an expand to a literal",
    ),
    "mean over channels": (
        lambda m, x: x * x.mean(1, keepdim=True),
        {},
        "mean .*: a reduction over channels",
    ),
    "mean of everything": (lambda m, x: x - x.mean(), {}, "mean .*: a reduction over channels"),
    "softmax over channels": (lambda m, x: x.softmax(1), {}, "softmax .*: a softmax over channels"),
    "softmax over channels by NumPy's name": (lambda m, x: x.softmax(axis=1), {}, "a softmax over channels"),
    "a tensor of eight": (
        lambda m, x: x * torch.arange(8.0).view(-1, 1, 1),
        {},
        "mul .*: a tensor of fixed size",
    ),
    "a map of all channels": (
        lambda m, x: (x.flatten(2) + m.map.flatten(2)).view(x.shape),
        {"map": nn.Parameter(torch.ones(1, 8, 8, 8))},
        "add .*: a tensor of fixed size",
    ),
    "a count that happens to fit": (
        lambda m, x: x.view(x.size(0), x.size(1) // 4, x.size(1) // (x.size(1) // 4), 8, 8).sum(2),
        {"width": 2},
        "sum .*: a reduction over channels",
    ),
    "a norm for each channel": (
        lambda m, x: m.norm(x),
        {"norm": nn.GroupNorm(8, 8)},
        "group_norm of 'norm' .*: a group norm with one",
    ),
    "weights by function": (
        lambda m, x: F.conv2d(x, m.w),
        {"w": nn.Parameter(torch.ones(8, 8, 1, 1))},
        "conv2d .*: weights that are not of a Conv2d",
    ),
    "weights that are computed": (
        lambda m, x: F.conv2d(x, m.w - m.w.mean()),
        {"w": nn.Parameter(torch.ones(8, 8, 1, 1))},
        "conv2d .*: weights that are not of a Conv2d",
    ),
    "channels one by one": (
        lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
        {},
        "unbind .*: channels that are",
    ),
    "channels that are rolled": (lambda m, x: x.roll(1, 1), {}, "roll .*: channels that are rolled"),
    "channel attention": (channel_attention, {"along": nn.Conv1d(1, 1, 3, padding=1)}, "conv1d of 'along'"),
    "global response norm": (
        response_norm,
        {"scale": nn.Parameter(torch.ones(8))},
        "mean .*: a reduction over",
    ),
    "a unit length": (lambda m, x: F.normalize(x), {}, "normalize .*: a softmax over channels"),
    "a blur by a fixed kernel": (
        lambda m, x: F.conv2d(x, m.blur.expand(8, 1, 3, 3), padding=1, groups=8),
        {"blur": nn.Parameter(torch.ones(1, 1, 3, 3) / 9, requires_grad=False)},
        "conv2d .*: weights that are not",
    ),
}

# Each is refused; the message names the node, and says what can be done.
REFUSED: dict[str, tuple[Middle, dict[str, Any], str]] = {
    "cumsum": (
        lambda m, x: x.cumsum(1),
        {},
        r"'cumsum' \(.*adversaries\.py:\d+: .*not understood.*OPERATIONS",
    ),
    "a value": (lambda m, x: x * x.mean().item(), {}, r"'item' \(.*adversaries\.py:\d+: .*reads values"),
    "a branch on a value": (
        lambda m, x: x if x.sum() > 0 else -x,
        {},
        "'__bool__'.*reads values.*torch.where",
    ),
    "an index of values": (lambda m, x: x[x > 0].view(x.shape), {}, "'getitem'.*index that is a tensor"),
    "written into zeros": (written_into_zeros, {}, "'add_'.*written into another tensor"),
    "written by index": (written_by_index, {}, "'setitem'.*not understood"),
    "einsum": (lambda m, x: torch.einsum("nchw,nchw->nchw", x, x), {}, "'einsum'.*not understood"),
    "matmul": (lambda m, x: x @ x, {}, "'matmul'.*not understood"),
    "channels as images": (
        lambda m, x: m.one(x.view(-1, 1, 8, 8)).view(x.shape),
        {"one": conv(1, 1)},
        "'one'.*one image is 8",
    ),
    "channels as positions": (
        lambda m, x: m.four(x.view(x.size(0), x.size(1) // 2, x.size(2) * 2, 8)),
        {"four": conv(4, 8)},
        "'four'.*dimension \\[1, 2\\].*permute, pool or flatten",
    ),
    "sixteen less": (
        lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 16 - x.size(1))),
        {"width": 16},
        "'pad'.*blank channels.*x.size\\(1\\)",
    ),
    "divided by the number of channels": (
        lambda m, x: x / x.size(1),
        {},
        "'div'.*depend on the number of channels",
    ),
    "pooled by the number of channels": (
        lambda m, x: F.avg_pool2d(x, x.size(1) // 4),
        {},
        "'last'.*runs on",
    ),
    "an index that is a buffer": (
        lambda m, x: x[:, m.at],
        {"at": nn.Parameter(torch.arange(8), requires_grad=False)},
        "'getitem'.*use chunk",
    ),
    "a borrowed weight": (lambda m, x: x * m.last.weight.mean(), {}, "'mean'.*last.weight.*of its own"),
    "squeeze": (
        lambda m, x: x + x.mean((2, 3)).squeeze()[..., None, None],
        {},
        "'squeeze'.*name the dimension",
    ),
    "expand to a literal map": (
        lambda m, x: x + x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8),
        {},
        "'expand'.*expand_as",
    ),
    "indices of a maximum": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], {}, "indices"),
    "layer norm of positions": (
        lambda m, x: m.norm(x),
        {"norm": nn.LayerNorm([8, 8, 8])},
        "over the last dimension.*runs over .8, 8, 8.",
    ),
    "layer norm without weights": (
        lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        {"norm": nn.LayerNorm(8, elementwise_affine=False)},
        "'norm'.*without a weight",
    ),
    "depthwise and transposed": (
        lambda m, x: m.up(x),
        {"up": nn.ConvTranspose2d(8, 8, 2, groups=8)},
        "'up' is transposed and depthwise",
    ),
    "batch statistics": (
        lambda m, x: m.norm(x),
        {"norm": nn.BatchNorm2d(8, track_running_stats=False)},
        "'batch_norm' of 'norm'.*has no running",
    ),
}
