"""How much the loss rises with errors in the outputs of layers."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from amc_env import checkpoints
from amc_env.building import make_env
from amc_env.compressors import plan_of
from amc_env.data.splits import DataSet, load
from amc_env.data.tensors import from_tensors
from amc_env.graph.trace import trace
from amc_env.repair import elimination
from amc_env.repair.information import information
from amc_env.repair.moments import Moments, collect
from amc_env.repair.sensitivity import at_counts, curves

TAKEN = {"calibration_images": 100, "device": "cpu"}


class Branching(nn.Module):
    """A layer of four channels that a second one reads; the logits of two classes are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.read = nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(3, 2, bias=False)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        self.head.weight.data = torch.tensor([[1.0, 2, 3], [-1, -2, -3]])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.read(self.stem(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> DataSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (120, 1, 2, 4), generator=generator).byte()
    return from_tensors(pixels, torch.arange(120) % 2, pixels[:20], torch.arange(20) % 2, seed=0)


def test_information_by_hand(images: DataSet) -> None:
    """With p = 1/2, g is ±(1/2, -1/2) at the logits, and ±(1, 2, 3) / 8 at each of 8 positions."""
    model = Branching().eval()
    found = information(model, trace(model, (1, 2, 4)), images, images=100, seed=0)
    torch.testing.assert_close(found["head"], torch.tensor([[0.25, -0.25], [-0.25, 0.25]]))
    each = torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(found["read"], torch.outer(each, each) / 8)
    torch.testing.assert_close(found["stem"], torch.zeros(4, 4))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_losses_by_hand() -> None:
    """Inputs of energy 1 and weights 1 to 12: what one output, or the sum of two, loses."""
    model = Branching().eval()
    model.read.weight.data = torch.arange(1.0, 13).reshape(3, 4, 1, 1)
    graph = trace(model, (1, 2, 4))
    group = next(at for at, one in enumerate(graph.groups) if len(one) == 4)
    moments = Moments({"read": torch.eye(4, dtype=torch.float64)[None]}, {}, {"read": 10**9})
    only = type("One", (), {"groups": [graph.groups[group]], "layers": graph.layers})
    for known, wanted in (
        ([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]], [(4 + 9 + 16) / 2, (9 + 16) / 2, 0]),
        ([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]], [(64 + 100 + 144) / 2, (100 + 144) / 2, 0]),
    ):
        _, rises = curves(model, only, moments, {"read": torch.tensor(known)}, [np.arange(4)])
        assert rises is not None
        np.testing.assert_allclose(at_counts(rises, [np.array([1, 2, 4])])[0], wanted, rtol=1e-4, atol=1e-9)
    assert curves(model, only, moments, {}, [np.arange(4)])[1] is None


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_transposed_layer_loses_what_its_twin_loses(stride: int) -> None:
    """Without overlap it is a 1x1 layer whose outputs are then laid side by side."""

    class Upsampling(nn.Module):
        def __init__(self, read: nn.Module) -> None:
            super().__init__()
            self.stem, self.read, self.head = nn.Conv2d(1, 8, 3, padding=1), read, nn.LazyLinear(3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.read(self.stem(images)).tanh().flatten(1))

    torch.manual_seed(0)
    one = Upsampling(nn.ConvTranspose2d(8, 6, stride, stride)).eval()
    two = Upsampling(nn.Sequential(nn.Conv2d(8, 6 * stride**2, 1), nn.PixelShuffle(stride))).eval()
    one(torch.zeros(1, 1, 6, 6))
    two.stem, two.head = one.stem, one.head
    two.read[0].weight.data = one.read.weight.detach().permute(1, 2, 3, 0).reshape(-1, 8, 1, 1)
    two.read[0].bias.data = one.read.bias.detach().repeat_interleave(stride**2)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (300, 1, 6, 6), generator=generator).byte()
    data = from_tensors(pixels, torch.arange(300) % 3, pixels[:20], torch.arange(20) % 3, seed=0)
    shown, _ = next(data.batches("test", 20))
    torch.testing.assert_close(one(shown), two(shown))
    first, second = (
        make_env(model, data, points=36, **TAKEN).reset()[1]["losses"][0] for model in (one, two)
    )
    np.testing.assert_allclose(first, second, rtol=0.3)


def test_the_loss_rises_in_the_order_that_is_predicted() -> None:
    """KL from the dense network when one group loses channels, repaired from moments.

    The prediction is too low where errors at several positions add up, in early layers.
    """
    model, _ = checkpoints.load(checkpoints.shipped("digits_cnn-digits"))
    env = make_env(model, load("digits"), reward_images=None, repair="moments", target=1.0, device="cpu")
    _, info = env.reset()
    judge, dense = env.task.evaluator("calibration"), [int(own[-1]) for own in env.compressor.choices]
    predicted, measured = [], []
    for group, choices in enumerate(env.compressor.choices):
        for at, count in enumerate(choices[:-1]):
            counts = [*dense[:group], int(count), *dense[group + 1 :]]
            predicted.append(info["losses"][group][at])
            measured.append(judge(plan_of(env.compressor, counts)).kl)
    assert spearmanr(predicted, measured).statistic > 0.9
    ratios = np.array(measured) / predicted
    assert 0.5 < ratios.min() < ratios.max() < 25


@pytest.mark.parametrize(("count", "points"), [(2, 1), (40, 8)])
def test_layers_of_too_many_inputs_lose_what_each_channel_gives(
    count: int, points: int, monkeypatch: pytest.MonkeyPatch, images: DataSet
) -> None:
    """They are not refitted; their moments are rows, or a Gram matrix of many rows."""
    model = Branching().eval()
    model.read.weight.data = torch.arange(1.0, 13).reshape(3, 4, 1, 1)
    graph = trace(model, (1, 2, 4))
    group = next(at for at, one in enumerate(graph.groups) if len(one) == 4)
    moments = collect(model, graph, images, images=count, points=points, seed=0)
    assert ("read" in moments.rows) == (count == 2)
    known = information(model, graph, images, images=100, seed=0)
    monkeypatch.setattr(elimination, "INVERTED", 1)
    _, rises = curves(model, graph, moments, known, [np.arange(len(one)) for one in graph.groups])
    assert rises is not None
    energies, weight = moments.gram("read")[0].diagonal(), model.read.weight.detach()[:, :, 0, 0].double()
    each = [
        float(weight[:, at] @ known["read"].double() @ weight[:, at] * energies[at] / 2) for at in range(4)
    ]
    wanted = [sum(each[kept:]) for kept in range(1, 5)]
    np.testing.assert_allclose(rises[group], wanted, rtol=1e-4, atol=1e-9)


class Cut(nn.Module):
    """A network without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(self.layers(images).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:no gradient flows")
def test_where_no_gradient_flows_there_are_errors_alone(images: DataSet) -> None:
    model = Cut().eval()
    _, info = make_env(model, images, reward_images=10, **TAKEN).reset()
    assert "errors" in info
    assert "losses" not in info
    with pytest.warns(UserWarning, match="no gradient flows back through the network, so the rise of the"):
        assert information(model, trace(model, (1, 2, 4)), images, images=100, seed=0) == {}


def test_a_metric_of_ones_own_has_errors_alone(images: DataSet) -> None:
    def metric(network: nn.Module, batches: object) -> float:
        return 1.0

    _, info = make_env(Branching(), images, metric=metric, **TAKEN).reset()
    assert "errors" in info
    assert "losses" not in info


def test_in_place_activations_and_grouped_layers_are_heard(images: DataSet) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    ).eval()  # fmt: skip
    graph = trace(model, (1, 2, 4))
    found = information(model, graph, images, images=100, seed=0)
    assert set(found) == {layer.name for layer in graph.layers}
    assert all(bool((each.diagonal() >= 0).all()) and bool(each.any()) for each in found.values())
    _, info = make_env(model, images, reward_images=10, **TAKEN).reset()
    assert all(min(own) >= 0 and own[-1] == 0 and max(own) > 0 for own in info["losses"])
