"""BoTorch's process over the plans of `GP`."""

import sys

import numpy as np
import pytest
import torch
from identity import assert_resumes, best_of

from agents.lattice import Lattice
from agents.surrogate import GP
from amc_env.tabular import TabularEnv


def test_the_message_names_the_extra_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.botorch import BoTorch

    monkeypatch.setitem(sys.modules, "botorch", None)
    env = TabularEnv("digits", target=0.3, scale="absolute")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amc-rl\[botorch\]'"):
        BoTorch(env.observation_space, env.action_space, seed=0)


class TestWithThePackage:
    """Cases that fit a process."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("gpytorch", reason="BoTorch is not installed: pip install 'amc-rl[botorch]'")

    def test_the_smallest_keep_is_0_and_a_whole_layer_1(self) -> None:
        from agents.botorch import in_unit_cube

        costs = {"limit": 9, "constant": 0, "single": ((0, 1, 2), (0, 1)), "pairs": {}}
        lattice = Lattice(((0.2, 0.4, 1.0), (0.5, 1.0)), costs)
        found = in_unit_cube(lattice, np.array([[0, 0], [1, 1], [2, 0]]))
        torch.testing.assert_close(found, torch.tensor([[0, 0], [0.25, 1], [1, 0]], dtype=torch.float64))

    def test_it_goes_on_exactly(self) -> None:
        from agents.botorch import BoTorch

        env = TabularEnv("digits", target=0.3, scale="absolute")

        def agent(seed: int) -> GP:
            return BoTorch(env.observation_space, env.action_space, seed=seed, starts=4, candidates=50)

        assert_resumes(agent, env, stop=5, episodes=7)

    def test_it_finds_a_length_scale_for_each_decision(self) -> None:
        """Of two decisions the rewards depend on the first alone."""
        from agents.botorch import BoTorch

        env = TabularEnv("digits", target=0.3, scale="absolute")
        agent = BoTorch(env.observation_space, env.action_space, seed=0)
        points = torch.from_numpy(np.random.default_rng(0).random((30, 2)))
        values = torch.sin(6 * points[:, :1])
        model = agent.fitted(points, (values - values.mean()) / values.std())
        first, second = model.covar_module.lengthscale[0].tolist()
        assert 0 < 5 * first < second

    @pytest.mark.slow
    def test_the_best_plan_of_a_table_is_found_within_60_evaluations(self) -> None:
        from agents.botorch import BoTorch

        env = TabularEnv("cifar_plain9", target=0.5, scale="absolute")
        agent = BoTorch(env.observation_space, env.action_space, seed=0)
        found = best_of(env, agent, episodes=60, seed=0).final
        assert found["top1"] == env.known_best.top1
