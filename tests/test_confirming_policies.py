"""A compared search delivers the plan with the best reward on the selection split."""

from types import SimpleNamespace

import pytest
from torch import nn

from amc_env.graph.trace import trace
from experiments.searching.policies import worth

GRAPH = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 8, 8))
TOP1 = {2: 0.8, 8: 0.9}  # of plans, by the channels that they keep


def subject():
    compressor = SimpleNamespace(
        choose=lambda group, count: tuple(range(count)),
        prices=lambda resource: {"params": lambda counts: 10 ** counts[0]}[resource],
    )
    task = SimpleNamespace(graph=GRAPH, compressor=compressor)
    return SimpleNamespace(
        task=task, selection=lambda plan: SimpleNamespace(top1=TOP1[len(plan.kept[0] or range(8))])
    )


def test_a_reward_that_weighs_costs_may_prefer_the_less_accurate_plan():
    assert worth(subject(), "error", [2]) == pytest.approx(-0.2)
    assert worth(subject(), "error", [8]) == pytest.approx(-0.1)
    assert worth(subject(), "params", [2]) == pytest.approx(-0.2 * 2 * 2.302585093)
    assert worth(subject(), "params", [8]) == pytest.approx(-0.1 * 8 * 2.302585093)
