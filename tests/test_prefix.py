"""What first layers gave is kept: the answers stay the same, bit for bit, and the layers are not run."""

import pickle

import numpy as np
import pytest
import torch
from networks import NETWORKS, SHAPE, images, network
from torch import nn

from amc_env.compressors.surgery import Surgeon, drop
from amc_env.evaluator import Evaluator
from amc_env.execution import Execution
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.prefix import Prefixes
from amc_env.repair.moments import collect

DATA = images()
ROOM = 2**24


def plans_of(graph, seed=0, count=30):
    """Each changes one group of the one before, as a search does that looks around."""
    rng = np.random.default_rng(seed)
    plan = Plan.dense(graph)
    for _ in range(count):
        group = int(rng.integers(len(graph.groups)))
        size = len(graph.groups[group])
        kept = rng.permutation(size)[: rng.integers(1, size + 1)]
        plan = plan.with_group(group, tuple(sorted(kept.tolist())))
        yield plan


def evaluators(name, **settings):
    model = network(name)
    graph = trace(model, SHAPE)
    solve = collect(model, graph, DATA, images=40, points=4, seed=0).solve
    made = [
        Evaluator(model, graph, DATA, solve, batch_size=15, prefixes=prefixes, **settings)
        for prefixes in (0, ROOM)
    ]
    return graph, *made


class Counted(nn.Module):
    """A layer that counts the images it is given."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.images = layer, 0

    def forward(self, x):
        self.images += len(x)
        return self.layer(x)


def prefixes_of(model, limit=ROOM, shape=SHAPE):
    graph = trace(model, shape)
    surgeon = Surgeon(model, graph, fold=True)
    batch = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    return graph, surgeon, batch, Prefixes(surgeon, surgeon.network, batch, limit)


def run(graph, surgeon, prefixes, plan, batch, number=0):
    network = surgeon.cut(plan)
    prefixes.enter(graph.mask(plan.kept))
    with torch.inference_mode():
        return prefixes(batch, number), network(batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_answer_is_the_same_bit_for_bit(name):
    graph, whole, kept = evaluators(name)
    for plan in plans_of(graph):
        np.testing.assert_array_equal(whole._measured(plan, 40), kept._measured(plan, 40))
    assert kept._prefixes._kept or not kept._prefixes.points


def test_where_networks_can_be_entered():
    counts = {name: len(prefixes_of(network(name))[3].points) for name in NETWORKS}
    layers = {name: len(trace(network(name), SHAPE).layers) for name in NETWORKS}
    assert counts["chain"] == layers["chain"] - 1
    assert counts["separable"] == layers["separable"] - 1
    assert 0 < counts["residual"] < layers["residual"] - 1  # not within a block: two values are read
    assert counts["concat"] == layers["concat"] - 1  # what is concatenated is one value


def test_from_the_third_time_on_the_layers_before_are_not_run():
    graph, surgeon, batch, prefixes = prefixes_of(network("chain"))
    ran = []
    for layer in graph.layers:
        surgeon.network.get_submodule(layer.name).register_forward_hook(
            lambda *_, name=layer.name: ran.append(name)
        )
    last = len(graph.groups) - 1
    size = len(graph.groups[last])
    names, counts = [layer.name for layer in graph.layers], []
    for keep in range(1, 4):
        plan = Plan.dense(graph).with_group(last, tuple(range(size - keep)))
        surgeon.cut(plan)
        prefixes.enter(graph.mask(plan.kept))
        ran.clear()
        with torch.inference_mode():
            prefixes(batch, 0)
        counts.append(list(ran))
    assert counts[0] == counts[1] == names
    assert counts[2] == names[-2:]  # what writes the group that changed, and what reads it


def test_a_batch_has_values_of_its_own():
    graph, surgeon, batch, prefixes = prefixes_of(network("chain"))
    for _ in range(3):
        for number, images_ in enumerate((batch, batch.flip(0))):
            found, expected = run(graph, surgeon, prefixes, Plan.dense(graph), images_, number)
            assert torch.equal(found, expected)


def test_what_takes_more_than_the_limit_goes():
    limit = 3000
    graph, surgeon, batch, prefixes = prefixes_of(network("chain"), limit)
    for plan in plans_of(graph):
        for _ in range(2):
            found, expected = run(graph, surgeon, prefixes, plan, batch)
            assert torch.equal(found, expected)
        assert prefixes.nbytes == sum(value.nbytes for value in prefixes._kept.values()) <= limit


class InPlace(nn.Module):
    """The values before the second layer are changed behind its back, after they were read."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(x)
        y = self.second(x)
        return self.head((self.act(x) + y).mean((2, 3)))


def test_a_network_is_not_entered_where_its_values_do_not_last():
    torch.manual_seed(0)
    graph, surgeon, batch, prefixes = prefixes_of(InPlace().eval())
    read = {str(prefixes._nodes[point.node + 1].target) for point in prefixes.points}
    assert read == {"head"}
    for _ in range(3):
        found, expected = run(graph, surgeon, prefixes, Plan.dense(graph), batch)
        assert torch.equal(found, expected)


def test_another_process_is_not_sent_what_is_kept():
    graph, _, kept = evaluators("chain")
    plans = list(plans_of(graph, count=4))
    expected = [kept(plan) for plan in plans]
    other = pickle.loads(pickle.dumps(kept))
    assert other._prefixes is None
    other._seen.clear()
    assert [other(plan) for plan in plans] == expected


def test_what_is_repaired_as_a_whole_or_compiled_is_refused():
    model = network("chain")
    graph = trace(model, SHAPE)
    with pytest.raises(ValueError, match="neither repaired as a whole nor compiled"):
        Evaluator(model, graph, DATA, drop, repair=lambda *_: None, prefixes=1)
    with pytest.raises(ValueError, match="neither repaired as a whole nor compiled"):
        Evaluator(model, graph, DATA, drop, execution=Execution(compile=True), prefixes=1)
