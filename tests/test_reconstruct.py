"""The refit is the least-squares solution on the sampled rows, for any layer and batch size."""

import copy
from typing import Any

import networks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn
from torch.nn import functional as F

from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import Problem, Surgeon, cut
from amc_env.data.splits import DataSet, Split
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair import moments as reconstruct
from amc_env.repair.least_squares import damping, refit, refit_rows, refit_together
from amc_env.repair.moments import Moments, collect
from amc_env.repair.sampling import draw_positions

ALL = 10_000  # points: every position of an image


def pictures(count: int = 40, shape: tuple[int, int, int] = networks.PAIR) -> DataSet:
    """Smooth random images, as uint8."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(count, shape[0], 4, 4, generator=generator)
    smooth = (
        F.interpolate(rough, size=shape[1:], mode="bilinear")
        + torch.randn(count, *shape, generator=generator) / 2
    )
    split = Split((128 + 40 * smooth).clamp(0, 255).byte(), torch.zeros(count, dtype=torch.int64))
    names = ("train", "calibration", "reward", "selection", "test")
    return DataSet("smooth", 3, (0.5,) * shape[0], (0.25,) * shape[0], False, dict.fromkeys(names, split))


def inputs(model: nn.Module, name: str, x: Tensor) -> list[Tensor]:
    """What a layer reads, call by call."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen


def every_row(module: nn.Module, x: Tensor) -> list[Tensor]:
    """``(rows, d)`` for each channel group, by torch's own im2col."""
    if isinstance(module, nn.Linear):
        return [x.flatten(0, -2).double()]
    assert isinstance(module, nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    settings: dict[str, Any] = {"dilation": module.dilation, "stride": module.stride}
    parts = [F.unfold(part, module.kernel_size, **settings) for part in x.chunk(module.groups, 1)]
    return [part.transpose(1, 2).flatten(0, 1).double() for part in parts]


def everything(data: DataSet) -> Tensor:
    return torch.cat([x for x, _ in data.batches("calibration", 100)])


def flat() -> nn.Module:
    return nn.Sequential(conv(2, 8), nn.Tanh(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 3))


def between(middle: nn.Module, width: int) -> nn.Module:
    """With a tanh before it, since a ReLU may leave dead inputs."""
    return nn.Sequential(conv(2, 8), nn.Tanh(), middle, nn.ReLU(), head(width))


KINDS = {
    "1x1": (lambda: between(nn.Conv2d(8, 5, 1), 5), "2"),
    "3x3": (lambda: between(conv(8, 5), 5), "2"),
    "1x3": (lambda: between(nn.Conv2d(8, 5, (1, 3), padding=(0, 1)), 5), "2"),
    "strided": (lambda: between(conv(8, 5, stride=2), 5), "2"),
    "strides that differ": (lambda: between(conv(8, 5, stride=(2, 1)), 5), "2"),
    "dilated": (lambda: between(nn.Conv2d(8, 5, 3, dilation=2, bias=False), 5), "2"),
    "grouped": (lambda: between(conv(8, 6, groups=2), 6), "2"),
    "reflected": (lambda: between(conv(8, 5, padding_mode="reflect"), 5), "2"),
    "padded by a word": (lambda: between(nn.Conv2d(8, 5, 3, padding="same"), 5), "2"),
    "linear after flatten": (flat, "4"),
    "linear at each position": (networks.layer_norm, "up"),
    "one reader of a residual sum": (networks.residual, "first"),
    "the other reader": (networks.residual, "head.2"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_direct_least_squares_on_the_same_rows(kind: str) -> None:
    build, name = KINDS[kind]
    model, data = networks.ready(build()), pictures(80)
    graph = trace(model, networks.PAIR)
    layer, module = graph.layer(name), model.get_submodule(name)
    weight = module.weight.detach().flatten(1).unflatten(0, (layer.groups, -1))
    rows = every_row(module, inputs(model, name, everything(data))[0])
    position = 4 if kind == "linear after flatten" else layer.taps  # columns of one channel
    kept = torch.tensor([0, 2, 3, 5]) if layer.groups == 1 else torch.tensor([0, 3])
    columns = (kept[:, None] * position + torch.arange(position)).flatten()

    moments = collect(model, graph, data, images=80, points=ALL, seed=0)

    assert moments.counts[name] == len(rows[0])
    for block, x in enumerate(rows):
        target = x @ weight[block].double().T
        expected = torch.linalg.lstsq(x[:, columns], target).solution.T
        found = refit(weight[block], moments.grams[name][block], columns, ridge=1e-12)
        assert torch.linalg.norm(found - expected) < 1e-4 * torch.linalg.norm(expected)
        if len(x) > 50 * len(columns):  # the damping of the default is nothing where rows are many
            (solved,) = moments.solve([Problem(layer, block, weight[block], columns)])
            assert torch.linalg.norm(solved - expected) < 1e-4 * torch.linalg.norm(expected)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """Rows ``(n, d)`` float32, weights ``(out, d)``, kept columns, a ridge; some inputs dead or doubled."""
    n, d, out = draw(st.integers(1, 30)), draw(st.integers(2, 12)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    rows, weight = torch.randn(n, d, generator=generator), torch.randn(out, d, generator=generator)
    rows[:, draw(st.lists(st.integers(0, d - 1), max_size=2))] = 0
    rows[:, 0] = rows[:, -1]
    kept = draw(st.sets(st.integers(0, d - 1), min_size=1, max_size=d - 1))
    return rows, weight, torch.tensor(sorted(kept)), 10 ** draw(st.floats(-8, 0))


def gram(rows: Tensor) -> Tensor:
    return rows.double().T @ rows.double() / len(rows)


def error(rows: Tensor, weight: Tensor, columns: Tensor, refitted: Tensor) -> float:
    rows, weight = rows.double(), weight.double()
    return (rows @ weight.T - rows[:, columns] @ refitted.double().T).square().mean().item()


@given(problems())
def test_is_never_worse_than_dropping_on_the_same_rows(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    rows, weight, columns, ridge = problem
    dropped = error(rows, weight, columns, weight[:, columns])
    for refitted in (
        refit(weight, gram(rows), columns, ridge),
        refit_rows(weight, rows, columns, ridge),
    ):
        assert error(rows, weight, columns, refitted) <= dropped * (1 + 1e-6) + 1e-9


@given(problems())
def test_from_rows_and_from_moments_is_one_answer(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    rows, weight, columns, ridge = problem
    weight = weight.double()
    torch.testing.assert_close(
        refit_rows(weight, rows, columns, ridge),
        refit(weight, gram(rows), columns, ridge),
        rtol=1e-6,
        atol=1e-6,
    )


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 9))
def test_solved_together_and_each_alone_is_one_answer(seed: int, count: int, d: int) -> None:
    """Whatever stays of each, an input that is dead included."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 30, d, generator=generator)
    rows[0, :, 0] = 0
    weights = torch.randn(count, 3, d, generator=generator)
    columns = [
        torch.randperm(d, generator=generator)[: 1 + index % d].sort().values for index in range(count)
    ]
    grams, ridges = [gram(x) for x in rows], torch.rand(count, generator=generator).tolist()
    before = [value.clone() for value in grams]
    found = refit_together(list(weights), grams, columns, ridges)
    alone = [refit(*problem) for problem in zip(weights, grams, columns, ridges, strict=True)]
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, kept) for value, kept in zip(grams, before, strict=True))


@given(problems())
def test_a_refit_leaves_what_it_is_given(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    rows, weight, columns, ridge = problem
    tensors = [gram(rows), rows, weight, columns]
    before = [value.clone() for value in tensors]
    refit(weight, tensors[0], columns, ridge)
    refit_rows(weight, rows, columns, ridge)
    assert all(torch.equal(value, kept) for value, kept in zip(tensors, before, strict=True))


def test_dead_inputs_keep_their_weights() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rows[:, [1, 4]] = 0
    weight, columns = torch.arange(12.0).view(2, 6), torch.tensor([0, 1, 4])
    for refitted in (refit(weight, gram(rows), columns, 1e-6), refit_rows(weight, rows, columns, 1e-6)):
        assert torch.equal(refitted[:, 1:], weight[:, [1, 4]])
        assert not torch.equal(refitted[:, 0], weight[:, 0])
    nothing = torch.zeros(50, 6)
    for refitted in (refit(weight, gram(nothing), columns, 1e-6), refit_rows(weight, nothing, columns, 1e-6)):
        assert torch.equal(refitted, weight[:, columns])


def test_two_inputs_that_are_equal_are_one() -> None:
    """By hand: y = 2 a + 3 b with a = b, so y = 5 a."""
    a = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    refitted = refit(torch.tensor([[2.0, 3.0]]), gram(torch.cat([a, a], 1)), torch.tensor([0]), 1e-9)
    torch.testing.assert_close(refitted, torch.tensor([[5.0]]))


@pytest.mark.parametrize(
    ("kept", "rows", "expected"), [(10, 1000, 1e-6), (50, 100, 0.125), (100, 100, 1.0), (300, 100, 1.0)]
)
def test_damping(kept: int, rows: int, expected: float) -> None:
    assert damping(kept, rows) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["grouped", "layer_norm", "shared", "flatten_linear"])
def test_any_batch_size_gives_one_answer(name: str) -> None:
    model, data = networks.ready(networks.NETS[name]()), pictures()
    graph = trace(model, networks.PAIR)
    one, *others = (
        collect(model, graph, data, images=40, points=5, seed=3, batch_size=size) for size in (1, 7, 40, None)
    )
    for other in others:
        assert other.counts == one.counts
        for kind in ("grams", "rows"):
            assert getattr(other, kind).keys() == getattr(one, kind).keys()
            for key, value in getattr(one, kind).items():
                torch.testing.assert_close(getattr(other, kind)[key], value, rtol=1e-5, atol=1e-6)


def test_seeds() -> None:
    model, data = networks.ready(networks.chain()), pictures()
    graph = trace(model, networks.PAIR)
    state = torch.get_rng_state()
    one, same, other = (
        collect(model, graph, data, images=40, points=5, seed=s).grams["3"] for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_positions_are_spread_and_none_comes_twice() -> None:
    layer = trace(networks.ready(networks.shared()), networks.PAIR).layer("again")
    at = draw_positions(layer, 100, 7, torch.Generator().manual_seed(0))
    assert at.shape == (2, 100, 7)
    assert (at.diff(dim=2) >= 0).all()
    assert (at.double() - torch.arange(7) * 64 / 7).abs().max() < 10  # each in its own seventh
    counts = torch.bincount(at.flatten(), minlength=64)
    assert len(counts) == 64
    assert (counts > 4).all()
    assert draw_positions(layer, 3, 64, torch.Generator()).tolist() == [[list(range(64))] * 3] * 2


def test_a_shared_module_sees_all_its_calls() -> None:
    model, data = networks.ready(networks.shared()), pictures()
    graph = trace(model, networks.PAIR)
    rows = torch.cat([every_row(model.again, x)[0] for x in inputs(model, "again", everything(data))])

    moments = collect(model, graph, data, images=40, points=ALL, seed=0)

    assert moments.counts["again"] == len(rows) == 2 * 40 * 64
    torch.testing.assert_close(moments.grams["again"][0], gram(rows), rtol=1e-5, atol=1e-6)


def doubled() -> nn.Module:
    """Channels 4 to 7 repeat channels 0 to 3, biases included, so four of them say everything."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.second(m.first(x).relu()).relu() + m.third(m.first(x).relu()))

    model = networks.ready(
        Net(forward, first=conv(2, 8), second=conv(8, 6), third=conv(8, 6, 1), head=head(6))
    )
    for value in (model.first.weight, model.first.bias):
        value.data[4:] = value.data[:4]
    return model


def test_biases_are_counted_once() -> None:
    model, data = doubled(), pictures()
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, data, images=40, points=ALL, seed=0)
    small = cut(model, graph, Plan.dense(graph).with_group(0, (0, 1, 6, 7)), moments.solve)

    assert torch.equal(small.second.bias, model.second.bias)
    with torch.no_grad():
        x = networks.pixels(5)
        torch.testing.assert_close(small(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", networks.NETS)
def test_cut_equals_masked_after_the_refit(name: str) -> None:
    model, data = networks.ready(networks.NETS[name]()), pictures()
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, data, images=40, points=10, seed=0)
    x = networks.pixels(3)
    for seed in range(3):
        plan = networks.random_plan(graph, seed)
        with torch.no_grad():
            expected = masked(model, graph, plan, moments.solve)(x)
            small = cut(model, graph, plan, moments.solve)(x)
        torch.testing.assert_close(small, expected, rtol=1e-5, atol=1e-5)


def test_where_nothing_is_lost_nothing_changes() -> None:
    model, data = networks.ready(networks.chain()), pictures()
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, data, images=40, points=5, seed=0)
    small = cut(model, graph, Plan.dense(graph), moments.solve)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in small.state_dict().items())


def test_layers_that_cannot_be_refitted_are_dropped_from() -> None:
    model, data = networks.ready(networks.transposed()), pictures()
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, data, images=40, points=5, seed=0)
    assert set(moments.counts) == {"1", "4", "5", "7.2"}  # not the image's layer


def test_more_inputs_than_rows_keeps_the_rows() -> None:
    model, data = networks.ready(networks.chain()), pictures()
    graph = trace(model, networks.PAIR)
    few = collect(model, graph, data, images=40, points=1, seed=0)  # 40 rows of 54 inputs, and of 8
    assert (set(few.rows), set(few.grams)) == ({"3"}, {"6.2"})
    layer, weight, columns = graph.layer("3"), model[3].weight.detach().flatten(1), torch.arange(27)
    same = Moments({"3": gram(few.rows["3"][0])[None]}, {}, few.counts)
    problem = Problem(layer, 0, weight, columns)
    torch.testing.assert_close(list(few.solve([problem])), list(same.solve([problem])))


def alternating() -> nn.Module:
    """Layers of one shape with others between them."""
    return nn.Sequential(conv(2, 6), conv(6, 6), conv(6, 4), conv(4, 6), conv(6, 6), head(6))


@pytest.mark.parametrize("build", [networks.chain, networks.residual, networks.grouped, alternating])
@pytest.mark.parametrize("points", [1, 20])
@pytest.mark.parametrize("together", [1, 2**26])
def test_a_gpu_is_given_layers_of_one_shape_together(
    build: Any, points: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one point, so that layers that keep their rows are among them; on the CPU here."""
    model, data = networks.ready(build()), pictures()
    graph = trace(model, networks.PAIR)
    moments = collect(model, graph, data, images=40, points=points, seed=0)
    plan = networks.random_plan(graph, 0)
    alone = Surgeon(model, graph, fold=True).cut(plan, moments.solve)
    monkeypatch.setattr(Moments, "on_cpu", property(lambda self: False))
    monkeypatch.setattr(reconstruct, "TOGETHER", together)
    found = Surgeon(model, graph, fold=True).cut(plan, moments.solve)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_hooks_and_modes_are_given_back_after_an_error() -> None:
    model, data = networks.ready(networks.residual()), pictures()
    graph = trace(model, networks.PAIR)
    model.train()
    model.norm.eval()
    model.stem.bias.data[2] = torch.nan
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())

    with pytest.raises(ArithmeticError, match="'first' is not finite: check the weights"):
        collect(model, graph, data, images=40, points=5, seed=0)

    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(
        torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in model.state_dict().items()
    )
    assert torch.is_grad_enabled()


def test_images_of_another_shape_are_refused() -> None:
    model = networks.ready(networks.chain())
    with pytest.raises(ValueError, match=r"images are \(2, 6, 6\), the network was traced with \(2, 8, 8\)"):
        collect(model, trace(model, networks.PAIR), pictures(shape=(2, 6, 6)), images=4, points=2, seed=0)
