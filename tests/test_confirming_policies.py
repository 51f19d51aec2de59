"""A compared search delivers the plan with the best reward on the selection split."""

import math
from types import SimpleNamespace

import pytest
from torch import nn

from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.env import CompressionEnv
from amc_env.graph.trace import trace
from experiments.searching.policies import confirmed

TOP1 = {2: 0.8, 8: 0.9}  # of plans, by the channels that they keep
PARAMS = {2: 3 * 9 * 2 + 2 + 2 * 9 * 4 + 4, 8: 3 * 9 * 8 + 8 + 8 * 9 * 4 + 4}


@pytest.mark.parametrize("kept", TOP1)
@pytest.mark.parametrize(("reward", "weight"), [("error", {}), ("params", PARAMS)])
def test_a_candidate_is_worth_its_reward_on_the_selection_split(reward, weight, kept):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    graph = trace(model, (3, 8, 8))
    channels = Channels(graph, magnitude_orders(model, graph), round_to=1)
    env = CompressionEnv(channels, lambda plan: None, target=1.0, reward=reward)
    subject = SimpleNamespace(
        task=SimpleNamespace(graph=graph, compressor=channels),
        selection=lambda plan: SimpleNamespace(top1=TOP1[len(plan.kept[0] or range(8))]),
    )
    factor = math.log(weight[kept]) if weight else 1.0
    assert confirmed(subject, env, [kept]) == pytest.approx((TOP1[kept] - 1) * factor)
