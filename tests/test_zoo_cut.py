"""Every network of the zoo is traced, cut by a random plan, and equals its masked self."""

import json

import numpy as np
import pytest
import torch

from amc_env import checkpoints as weights
from amc_env import files, zoo
from amc_env.card import Card, CheckpointError
from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import cut
from amc_env.graph.trace import trace
from amc_env.plan import Plan

SHALLOW = {  # in place of the same networks, only deeper
    "plain": {"depth": 8},
    "resnet": {"depth": 8},
    "tiny": {"widths": [8, 16], "strides": [1, 2]},
}
NETWORKS = sorted(set(zoo.names()) - {"plain20", "resnet20", "resnet56"})


def random_plan(graph, seed):
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(len(group))[: rng.integers(1, len(group) + 1)] for group in graph.groups]
    return Plan(graph.hash, tuple(tuple(sorted(positions.tolist())) for positions in kept))


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_equals_masked_and_trains(name):
    model = zoo.build(name, classes=5, in_channels=1, **SHALLOW.get(name, {}))
    side = 28 if name.startswith("lenet") else 16
    images = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images)  # so that batch norm has statistics of its own
    model.eval()
    graph = trace(model, (1, side, side))
    plan = random_plan(graph, seed=0)
    small, oracle = cut(model, graph, plan).eval(), masked(model, graph, plan).eval()
    with torch.no_grad():
        expected = oracle(images)
        difference = (small(images) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-4
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    small.train()(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.fixture
def stem(tmp_path):
    model = zoo.build("plain", classes=5, in_channels=1, depth=8)
    graph = trace(model, (1, 8, 8))
    plan = random_plan(graph, seed=1)
    card = Card("plain", 5, 1, "digits", (1, 8, 8), 0, "abc", options={"depth": 8}, plan=plan.to_dict())
    weights.save(tmp_path / "small", cut(model, graph, plan), card)
    return tmp_path / "small"


def test_a_cut_network_comes_back_from_its_card(stem):
    network, card = weights.load(stem)
    model = zoo.build("plain", classes=5, in_channels=1, depth=8)
    again = cut(model, trace(model, card.shape), Plan.from_dict(card.plan))
    for name, value in again.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert network(torch.zeros(2, *card.shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"depth": 8', '"depth": 14', "the plan was made for the network"),
        ('"kept": [', '"held": [', "a plan holds"),
        ('"plan": {', '"plan": 3, "extra": {', "unknown ['extra']"),
    ],
)
def test_a_plan_that_does_not_fit_is_named(stem, old, new, words):
    path = weights.files(stem)[1]
    text = path.read_text()
    assert old in text
    path.write_text(json.dumps(files.seal(json.loads(text.replace(old, new)))))
    with pytest.raises(CheckpointError) as error:
        weights.load(stem)
    assert words in str(error.value)
