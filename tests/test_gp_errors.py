"""What the errors of layers tell before any evaluation: damage, the rule of least error, and `gp_errors`."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from agents.damage import ErrorsError, damages, least
from agents.gp_errors import GPErrors, trend
from agents.lattice import Lattice, Plans, summed
from agents.rules import LeastError, is_rule
from agents.search import search
from agents.surrogate import GP
from amc_env.cost import Ints
from amc_env.graph.trace import trace
from amc_env.repair.moments import Moments
from amc_env.repair.sensitivity import errors
from amc_env.tabular import TabularEnv


def env_of(target: float = 0.3, table: str = "digits") -> TabularEnv:
    return TabularEnv(table, target=target, scale="absolute")


def within(env: TabularEnv) -> Plans:
    """``(n, T)`` all plans within the budget."""
    macs = env.table.columns["macs"]
    rows = np.flatnonzero(macs.ravel() <= env.budget.limit)
    return np.stack(np.unravel_index(rows, macs.shape), axis=1)


def test_damage_by_hand() -> None:
    plans = np.array([[0, 0], [0, 1], [1, 0]])
    info = {"errors": ((0.04, 0.0), (0.25, 0.01))}
    np.testing.assert_allclose(summed(damages(info), plans), [0.008 + 0.125, 0.008 + 0.001, 0.125])
    info |= {"losses": ((0.01, 0.0), (1.0, 0.0001))}
    np.testing.assert_allclose(summed(damages(info), plans), [0.02 + 0.5, 0.02 + 0.001, 0.5])


@pytest.mark.parametrize("table", ["digits", "digits_residual", "fashion_plain8"])
def test_the_plan_of_least_damage_is_that_of_all_plans(table: str) -> None:
    env = env_of(table=table)
    _, info = env.reset()
    lattice, every = Lattice(info["choices"], info["costs"]), within(env)
    found = least(lattice, lambda plans: summed(damages(info), plans), np.random.default_rng(0))
    assert lattice.within(found).all()
    assert summed(damages(info), found[:1])[0] == summed(damages(info), every).min()


def test_least_error_plays_it_again_and_again() -> None:
    env = env_of()
    _, info = env.reset()
    agent = LeastError(env.observation_space, env.action_space, seed=3)
    trials = list(search(env, agent, episodes=2, seed=0))
    assert len({str(trial.episode.final["plan"]) for trial in trials}) == 1
    every = within(env)
    best = every[summed(damages(info), every).argmin()]
    kept = [step["keep_applied"] for step in trials[0].episode.infos]
    np.testing.assert_allclose(kept, [own[at] for own, at in zip(info["choices"], best, strict=True)])
    assert is_rule("agents.rules.LeastError")
    assert LeastError.scale == "absolute"  # on the other one not every plan can be asked for
    agent.load_state_dict(agent.state_dict())


def test_without_errors_the_rule_says_what_to_change() -> None:
    env = env_of()
    observation, info = env.reset()
    del info["errors"]
    agent = LeastError(env.observation_space, env.action_space, seed=0)
    with pytest.raises(
        ErrorsError, match=r"compressor\.method=channels and repair=moments, staged or sequential"
    ):
        agent.act(observation, info, explore=True)


def test_the_first_plans_are_those_of_least_damage_and_the_uniform_one() -> None:
    env = env_of()
    agent = GPErrors(env.observation_space, env.action_space, seed=0)
    list(search(env, agent, episodes=2, seed=0))
    _, info = env.reset()
    every = within(env)
    assert agent.lattice is not None
    first, second = agent.plans
    damage = summed(damages(info), every)
    assert first.tolist() == every[damage.argmin()].tolist()
    assert (second >= agent.lattice.uniform()[0]).all()
    assert summed(damages(info), second[None])[0] > np.sort(damage)[1]  # it is not the second of least damage


def test_where_no_errors_are_known_it_is_gp() -> None:
    played = []
    for kind in (GPErrors, GP):
        env = env_of()
        env.compressor.errors = None
        agent = kind(env.observation_space, env.action_space, seed=0, starts=5, candidates=50)
        list(search(env, agent, episodes=8, seed=0))
        played.append(agent.plans.tolist())
    assert played[0] == played[1]


def test_it_is_ahead_of_gp_when_evaluations_are_few() -> None:
    best = dict.fromkeys((GPErrors, GP), 0.0)
    for table in ("digits", "fashion", "digits_residual", "digits_grouped6"):
        for kind in best:
            env = env_of(table=table)
            agent = kind(env.observation_space, env.action_space, seed=0)
            best[kind] += max(
                trial.episode.final["top1"] for trial in search(env, agent, episodes=15, seed=0)
            )
    assert best[GPErrors] > best[GP]


def test_a_resumed_search_is_the_uninterrupted_one() -> None:
    env = env_of()
    make = lambda seed: GPErrors(env.observation_space, env.action_space, seed=seed, candidates=50)  # noqa: E731
    whole = [trial.episode.reward for trial in search(env, make(0), episodes=9, seed=0)]
    for at in (1, 6):
        first, second = make(0), make(3)
        head = [trial.episode.reward for trial in search(env, first, episodes=at, seed=0)]
        second.load_state_dict(first.state_dict())
        rest = search(env, second, episodes=9, seed=0, start=at)
        assert head + [trial.episode.reward for trial in rest] == whole


def test_the_slope_is_never_upwards() -> None:
    assert trend(np.array([0.0, 1.0, 2.0]), np.array([4.0, 3.0, 2.0])) == pytest.approx((-1.0, 4.0))
    assert trend(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx((0.0, 0.5))


def after_diagonal(first: list[float], second: list[float]) -> np.ndarray:
    """A search of two decisions that played (0, 0), (1, 1) and so on; the expected improvement of all plans.

    The errors of the choices are given. Where a plan and its mirror image differ, it is by the prior mean.
    """
    count = len(first)
    keeps = tuple((np.arange(1, count + 1) / count).tolist())
    costs = {"limit": 2 * count, "constant": 0, "single": (tuple(range(count)),) * 2, "pairs": {}}
    info = {"decisions": 2, "choices": (keeps, keeps), "costs": costs, "errors": (first, second)}
    space = gym.spaces.Box(0, 1, (1,), np.float32)
    agent = GPErrors(space, space, seed=0, candidates=20)
    plans = np.repeat(np.arange(count)[:, None], 2, axis=1)
    rewards = (-0.1 * summed(damages(info), plans)).tolist()
    agent.load_state_dict(agent.state_dict() | {"plans": torch.from_numpy(plans), "rewards": rewards})
    agent.act(np.zeros(11, np.float32), info | {"actions": keeps}, explore=True)
    assert agent.lattice is not None
    every = np.stack(np.indices((count, count)), axis=-1).reshape(-1, 2)
    return agent.promise(agent.lattice)(every).reshape(count, count)


def test_of_two_plans_alike_the_one_of_less_damage_promises_more() -> None:
    promise = after_diagonal([0.8, 0.6, 0.4, 0.2, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0])
    assert promise[4, 3] > 10 * promise[3, 4]


def test_a_plan_that_was_played_promises_next_to_nothing() -> None:
    promise = after_diagonal([0.8, 0.6, 0.4, 0.2, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0])
    assert np.diag(promise).max() < 0.1


def test_plans_beyond_the_damage_of_most_are_bad_alike() -> None:
    """Of eleven plans one alone has more damage than 2 * 0.1^1.5, and so have both of these."""
    rest = [0.1, *[0.0] * 9]
    promise = after_diagonal([1.0, *rest], [0.5, *rest])
    assert promise[0, 10] == pytest.approx(promise[10, 0])


class Readers(nn.Module):
    """A layer of four channels that one or two equal layers read."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.read = nn.ModuleList(nn.Conv2d(4, 3, 1) for _ in range(readers))
        for layer in self.read:
            layer.weight.data = torch.arange(1.0, 13).reshape(3, 4, 1, 1)
        self.head = nn.Linear(3 * readers, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        return self.head(torch.cat([layer(x) for layer in self.read], dim=1).mean((2, 3)))


def test_errors_add_up_over_the_layers_that_read_a_group() -> None:
    """Uncorrelated inputs of energy 1: the columns' energies are 107, 140, 179 and 224 of 650."""
    for readers in (1, 2):
        model = Readers(readers)
        graph = trace(model, (1, 2, 2))
        group = next(
            at for at, one in enumerate(graph.groups) if len(one.layers) == readers and len(one) == 4
        )
        names = [graph.layers[index].name for index in graph.groups[group].layers]
        known = Moments(
            {name: torch.eye(4, dtype=torch.float64)[None] for name in names}, {}, dict.fromkeys(names, 10**9)
        )
        orders: list[Ints] = [np.arange(len(one)) for one in graph.groups]
        counts: list[Ints] = [np.array([1, 2, 4]) for _ in graph.groups]
        only = type("One", (), {"groups": [graph.groups[group]], "layers": graph.layers})
        found = errors(model, only, known, [orders[group]], [counts[group]])
        np.testing.assert_allclose(found[0], np.array([543, 403, 0]) / 650 * readers, rtol=1e-4, atol=1e-9)
