"""Wrong calls and settings of the environment are told, before any long work."""

import math

import numpy as np
import pytest
from networks import images, network
from test_env import episode, make, moments  # noqa: F401  (a fixture)
from torch import nn

from amc_env import zoo
from amc_env.budget import BudgetError
from amc_env.building import make_env
from amc_env.data.splits import DataError
from amc_env.graph.labels import TraceError
from amc_env.metrics import EvaluationError
from amc_env.plan import Plan


@pytest.mark.parametrize("action", [math.nan, math.inf, -0.001, 1.001, [0.5, 0.5], []])
def test_an_action_that_is_not_one_number_in_the_unit_interval(action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match=r"action of decision 0 is .*, not one number in \[0, 1\]"):
        env.step(np.atleast_1d(action))
    assert env.plan == Plan.dense(env.graph)  # nothing was decided


def test_a_step_after_the_last_one():
    env = make()
    episode(env, [0.5])
    with pytest.raises(RuntimeError, match="all decisions are made; call reset"):
        env.step(np.array([0.5]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resource": "flops"}, "resource is 'flops'; there are macs, params"),
        ({"reward": "accuracy"}, "reward is 'accuracy'; there are error, error_top5, flops"),
        ({"scale": "log"}, "scale is 'log'; there are absolute, relative"),
        ({"render_mode": "human"}, "render_mode is 'human'; there are None, ansi, rgb_array"),
        ({"beta": 0}, "beta is 0, it is at least 0.001"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": math.inf}, "beta is inf, it is at most 8.0: on a wider scale float32 actions"),
        ({"beta": 8.1}, "beta is 8.1, it is at most 8"),
        ({"calibration_images": 2.5}, "calibration_images is 2.5, it must be a whole number"),
        ({"reward_images": True}, "reward_images is True, it must be a whole number"),
        ({"round_to": 2.5}, "round_to is 2.5"),
        ({"seed": -1}, "seed is -1, it is at least 0"),
        ({"calibration_images": 0}, "calibration_images is 0"),
        ({"points": -1}, "points is -1"),
        ({"reward_images": 0}, "reward_images is 0"),
        (
            {"repair": "finetuning"},
            "repair is 'finetuning'; there are moments, sequential, staged, none",
        ),
        ({"floor": 0}, "floor is 0, it is at least 1e-06"),
        ({"floor": -0.1}, "floor is -0.1, it is at least 1e-06"),
        ({"floor": 1.1}, r"floor is 1.1, .* at most 1"),
        ({"round_to": 0}, "round_to is 0, it is at least 1"),
        (
            {"floor": 1.0},
            "cannot be met: the floor allows the dense network alone; lower the floor",
        ),
    ],
)
def test_a_wrong_setting_says_what_is_possible(options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)


@pytest.fixture
def no_long_work(monkeypatch):
    """Fail where moments would be collected."""

    def collected(*args, **kwargs):
        raise AssertionError("long work was begun")

    monkeypatch.setattr("amc_env.task.collect_cached", collected)
    monkeypatch.setattr("amc_env.task.orders_cached", collected)


@pytest.mark.usefixtures("no_long_work")
def test_what_does_not_fit_is_found_before_any_long_work():
    with pytest.raises(BudgetError, match="lowest possible target is"):
        make(target=0.001)
    with pytest.raises(BudgetError, match=r"in \(0, 1\], not 1\.5"):
        make(target=1.5)
    with pytest.raises(DataError, match=r"Plain cannot take the images of noise, \(1, 8, 8\) each"):
        make_env(zoo.build("plain20", classes=4, in_channels=3), images())
    with pytest.raises(DataError, match=r"weights are torch\.bfloat16: call \.float\(\) on it first"):
        make_env(network("chain").bfloat16(), images())
    with pytest.raises(DataError, match=r"Sequential gives \(4,\) outputs for an image, noise has 7 classes"):
        make_env(network("chain"), images(classes=7))
    with pytest.raises(DataError, match="gives tuple for an image"):
        make_env(Pair(), images())
    damaged = network("chain")
    damaged[0][0].weight.data[0] = math.nan
    with pytest.raises(EvaluationError, match=r"0\.0\.weight holds NaN or infinity"):
        make_env(damaged, images())
    with pytest.raises(TraceError, match="nothing to decide in Sequential: it has no layer whose inputs"):
        make_env(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), images())


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_a_reward_that_is_not_finite_stops_the_search(monkeypatch):
    env = make()
    monkeypatch.setattr(env, "reward", lambda evaluation, costs: math.nan)
    with pytest.raises(EvaluationError, match=r"the reward of plan \w+ is nan, of Evaluation\(top1"):
        episode(env, [0.5])
