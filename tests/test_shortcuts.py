"""Layers that compensate for errors of the shortcut to which they are added."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc_env import zoo
from amc_env.data.splits import load
from amc_env.graph.trace import trace
from amc_env.repair.correction import Outputs
from amc_env.repair.sequential import SequentialRepair, _outputs, _restore_spread
from amc_env.repair.shortcuts import is_sum, pixels, shortcuts


def test_a_block_of_a_resnet_is_a_shortcut_and_one_that_changes_size_is_none() -> None:
    model = zoo.build("resnet", classes=10, in_channels=1, depth=20)
    found = shortcuts(trace(model, (1, 8, 8)))
    assert len(found) == 3 + 2 + 1  # of stages of three blocks; no layer of its size reads the last one
    for each in found:
        block = each.entry.name.rsplit(".", 2)[0]
        assert each.layer.name.startswith(block)
        assert not each.exit.name.startswith(block + ".")


def test_a_chain_of_layers_has_no_shortcut() -> None:
    assert not shortcuts(trace(zoo.build("plain", classes=10, in_channels=1, depth=8), (1, 8, 8)))


@pytest.mark.parametrize("act", [lambda x: x, torch.relu, nn.functional.relu6])
def test_a_sum_is_seen_from_its_values_also_after_a_relu(act) -> None:
    total = 4 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert is_sum(total, act(total) + 1e-6)
    assert not is_sum(total, 0.9 * act(total))


def test_pixels_are_the_channels_at_positions_row_by_row() -> None:
    x = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    found = pixels(x, torch.tensor([[1], [2]]))
    assert found.tolist() == [x[0, :, 0, 1].tolist(), x[1, :, 1, 0].tolist()]


class Scaled(nn.Module):
    """Its shortcut is halved, so that the sum is another than the layers let think."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c_in, 4, 3, padding=1) for c_in in (1, 4, 4, 4))
        self.head, self.factor = nn.Linear(4, 10), factor

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x).relu()
        x = self.factor * x + self.convs[2](self.convs[1](x).relu())
        logits: Tensor = self.head(self.convs[3](x).mean((2, 3)))
        return logits


@pytest.mark.parametrize(("factor", "kept"), [(1.0, 1), (0.5, 0)])
def test_what_is_not_a_plain_sum_is_not_taken_for_one(factor: float, kept: int) -> None:
    data, model = load("digits"), Scaled(factor).eval()
    graph = trace(model, data.shape)
    assert [each.layer.name for each in shortcuts(graph)] == ["convs.2"]
    repair = SequentialRepair(model, graph, data, images=20, points=5, seed=0)
    assert len(repair._shortcuts) == kept


def test_a_branch_makes_up_for_what_its_shortcut_lost() -> None:
    """A cut network whose shortcut is off by a constant ends where the dense one does."""
    data, model = load("digits"), Scaled(1.0).eval()
    graph = trace(model, data.shape)
    repair = SequentialRepair(model, graph, data, images=40, points=20, seed=0)
    images = data.normalise(data["reward"].images[:50])
    damaged = Scaled(1.0).eval()
    damaged.load_state_dict(model.state_dict())
    with torch.no_grad():
        bias = damaged.convs[0].get_parameter("bias")
        bias += 0.3
        dense, before = model(images), damaged(images)
        repair.repair(damaged, np.ones(graph.atoms, dtype=bool))
        after = damaged(images)
    assert (after - dense).square().mean() < 0.01 * (before - dense).square().mean()


@pytest.mark.parametrize("normed", [False, True])
def test_channels_vary_as_their_targets_do_about_the_same_mean(normed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 2, 1, bias=not normed), nn.BatchNorm2d(2) if normed else None
    sample = torch.randn(1, 500, 3, generator=generator)
    before = _outputs(conv, sample).detach()
    shift = 0 if norm is None else norm.running_mean.clone()
    target = 1.25 * before
    _restore_spread(conv, norm, Outputs(before.mean(0), before.std(0)), target)
    after = _outputs(conv, sample).detach() - (0 if norm is None else norm.running_mean)
    torch.testing.assert_close(after.std(0), target.std(0))
    torch.testing.assert_close(after.mean(0), (before - shift).mean(0))
