"""The pretrained critic: its formula, its files, its training, and its proposals."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save, save_file

from agents import critic as critics
from agents.critic import Critic, CriticError, Ensemble, features, read
from agents.damage import ErrorsError
from agents.episode import StateError
from agents.lattice import Lattice
from agents.pretrained import SHIPPED, Pretrained
from agents.rules import Uniform
from agents.search import search
from agents.surrogate import GP
from amc_env.tabular import TabularEnv
from experiments.analysis import transfer
from experiments.searching import pretrain_agent

ERRORS = ((0.2, 0.0), (0.4, 0.0), (0.1, 0.0))
# Three decisions of widths 1 or 2: a layer of cost 3 w0 w1, one of 5 w1 w2, and 2 for each of w0.
COSTS = {
    "limit": 20,
    "constant": 10,
    "single": ((0, 5), (0, 8), (0, 5)),
    "pairs": {(0, 1): ((0, 0), (0, 3)), (1, 2): ((0, 0), (0, 5))},
}
LATTICE = Lattice(((0.5, 1.0),) * 3, COSTS)


def simple(weight: float = 2.0, power: float = 1.0) -> Critic:
    """A critic with the same weight and power for every decision."""
    made = {"mean": np.zeros(6), "scale": np.ones(6), "hidden_weight": np.zeros((6, 4))}
    made |= {"hidden_bias": np.zeros(4), "weight": np.zeros((4, 2)), "bias": np.array([np.log(weight), 0.0])}
    return Critic(made | {"power": np.array([np.log(power)])})


def env_of(target: float = 0.3) -> TabularEnv:
    return TabularEnv("digits", target=target, scale="absolute")


def make(env: TabularEnv, *, seed: int = 0, **settings: object) -> Pretrained:
    return Pretrained(env.observation_space, env.action_space, seed=seed, **settings)


def test_damage_by_hand() -> None:
    plans = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1]])
    known = features(LATTICE, ERRORS)
    found = simple().damage(known, ERRORS, plans)
    np.testing.assert_allclose(found, [2 * 0.7, 2 * 0.4, 0.0], atol=1e-4)
    found = simple(1.0, 2.0).damage(known, ERRORS, plans)
    np.testing.assert_allclose(found, [0.04 + 0.16 + 0.01, 0.16, 0.0], atol=1e-4)


def test_critics_that_disagree_are_doubted() -> None:
    """Of damages 0.04 + 0.16 + 0.01 and twice 0.7, over those of the reference, 0.16 and twice 0.4."""
    both = Ensemble((simple(2.0, 1.0), simple(1.0, 2.0)))
    plans, reference = np.array([[0, 0, 0], [1, 0, 1]]), np.array([[1, 0, 1]])
    apart = np.log([0.7 / 0.4, 0.21 / 0.16])
    found = both.doubted(LATTICE, ERRORS, plans, reference)
    np.testing.assert_allclose(found, [apart.mean() + critics.DOUBT * apart.std(), 0.0], atol=1e-3)
    found = both.damage(LATTICE, ERRORS, plans, reference)
    np.testing.assert_allclose(found, [np.exp(apart.mean()), 1.0], atol=1e-3)
    alike = Ensemble((simple(2.0), simple(5.0)))  # a factor is the network's, not an opinion
    np.testing.assert_allclose(
        np.exp(alike.doubted(LATTICE, ERRORS, plans, reference)),
        alike.damage(LATTICE, ERRORS, plans, reference), atol=1e-3,
    )  # fmt: skip


def test_features_by_hand() -> None:
    """Dense 36; the least of each alone saves 5 + 3, 8 + 3 + 5 and 5 + 5."""
    found = features(LATTICE, ERRORS)
    saved = np.array([8, 16, 10]) / 34
    np.testing.assert_allclose(found[:, 0], [0, 0.5, 1])
    np.testing.assert_allclose(found[:, 1], np.log(3 * saved))
    np.testing.assert_allclose(found[:, 2], [26 / 34, 10 / 34, 0], atol=1e-12)
    np.testing.assert_allclose(found[0, 3:], np.log([0.201, 0.201, 0.101]))


def test_the_first_plan_is_the_critics_favourite_and_within_the_budget() -> None:
    env = env_of()
    agent = make(env)
    (trial,) = search(env, agent, episodes=1, seed=0)
    assert trial.episode.final["macs"] <= env.budget.limit
    macs = env.table.columns["macs"]
    within = np.flatnonzero(macs.ravel() <= env.budget.limit)
    plans = np.stack(np.unravel_index(within, macs.shape), axis=1)
    uniform = agent.lattice.uniform()
    damage = agent.critic.doubted(agent.lattice, env.table.compressor.errors, plans, uniform)
    assert agent.plans.tolist() == [plans[damage.argmin()].tolist()]


def test_on_a_network_it_has_not_seen_it_is_ahead_of_a_process_that_knows_nothing(tmp_path: Path) -> None:
    names = ("digits_residual", "digits_grouped6", "digits_plain6")
    tables = [pretrain_agent.CriticTable(name) for name in names]
    pretrain_agent.write(pretrain_agent.ensemble(tables, steps=20, seed=0), tmp_path / "mine", names)
    env = env_of()
    known = make(env, critic=str(tmp_path / "mine.safetensors"))
    nothing = GP(env.observation_space, env.action_space, seed=0)
    best = [max(t.episode.reward for t in search(env, a, episodes=10, seed=0)) for a in (known, nothing)]
    assert best[0] > best[1]


def test_training_ends_the_same() -> None:
    tables = [pretrain_agent.CriticTable("digits_residual")]
    one, other = (pretrain_agent.trained(tables, steps=5, seed=1) for _ in range(2))
    assert all((one.parameters[name] == other.parameters[name]).all() for name in critics.PARAMETERS)


def test_the_error_by_hand() -> None:
    """KLs 1 and 2 weigh 2/3 and 1/3; predictions are 0.3 too high on average, and 0.3 and 0.6 off that."""
    predicted, log_kl = torch.tensor([0.0, 0.9 + np.log(2)]), torch.log(torch.tensor([1.0, 2.0]))
    found = pretrain_agent.weighted_square(predicted, log_kl)
    assert found.item() == pytest.approx(2 / 3 * 0.3**2 + 1 / 3 * 0.6**2, abs=1e-6)


def test_a_resumed_search_is_the_uninterrupted_one() -> None:
    env = env_of()
    make_one = lambda *, seed: make(env, seed=seed, candidates=50)  # noqa: E731
    whole = [t.episode.reward for t in search(env, make_one(seed=0), episodes=9, seed=0)]
    first, second = make_one(seed=0), make_one(seed=3)
    head = [t.episode.reward for t in search(env, first, episodes=6, seed=0)]
    second.load_state_dict(first.state_dict())
    assert head + [t.episode.reward for t in search(env, second, episodes=9, seed=0, start=6)] == whole


def test_files_that_are_no_critic_are_refused(tmp_path: Path) -> None:
    assert len(read(SHIPPED).critics) == pretrain_agent.MEMBERS
    pretrain_agent.write(Ensemble((simple(), simple(3.0))), tmp_path / "mine", [])
    path, card = tmp_path / "mine.safetensors", tmp_path / "mine.json"
    told = json.loads(card.read_text())
    for critic, made in zip(read(path).critics, (simple(), simple(3.0)), strict=True):
        np.testing.assert_array_equal(critic.parameters["bias"], made.parameters["bias"])
    for change in ({"format": 99}, {"features": ["t", "n"]}):
        card.write_text(json.dumps(told | change))
        with pytest.raises(CriticError, match="of another version or features than place, cost"):
            read(path)
    card.write_text(json.dumps(told))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CriticError, match=r"damaged; make it with `python -m experiments\.pretrain_agent`"):
        read(path)
    with pytest.raises(CriticError, match="no file of at most"):
        read(tmp_path / "none.safetensors")
    for path in (Path("."), Path("/")):
        with pytest.raises(CriticError, match="is no file of critics"):
            read(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda made: made | {"mean": np.zeros((1, 5))}, r"mean is \[1, 5\], wanted is \[1, 6\]"),
        (lambda made: made | {"hidden_bias": np.zeros((1, 3))}, r"hidden_weight is \[1, 6, 4\], wanted"),
        (lambda made: made | {"bias": np.full((1, 2), np.nan)}, "bias holds numbers that are not finite"),
        (lambda made: made | {"scale": np.zeros((1, 6))}, "scale holds numbers"),
        (lambda made: {name: value[:0] for name, value in made.items()}, r"mean is \[0, 6\]"),
        (lambda made: {"mean": made["mean"]}, r"it holds \['mean'\]"),
        (lambda made: b"hello world, no safetensors", "cannot be read: "),
    ],
)  # fmt: skip
def test_parameters_that_are_no_critic_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    """With a card that fits the file."""
    pretrain_agent.write(Ensemble((simple(),)), tmp_path / "mine", ["digits"])
    path, card = tmp_path / "mine.safetensors", tmp_path / "mine.json"
    changed = change(load_file(path))
    path.write_bytes(changed if isinstance(changed, bytes) else save(changed))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": digest}))
    with pytest.raises(CriticError, match=told):
        read(path)


def test_a_path_is_given_with_or_without_its_suffix(tmp_path: Path) -> None:
    for name in ("mine", "my.own"):
        pretrain_agent.write(Ensemble((simple(),)), tmp_path / name, ["digits", "fashion"])
        for path in (tmp_path / name, tmp_path / f"{name}.safetensors"):
            assert read(path).tables == ("digits", "fashion")


def test_plans_beyond_the_most_are_told_once() -> None:
    env = env_of()
    with pytest.warns(UserWarning, match="GP fits 5 plans from here on") as told:
        list(search(env, make(env, most=5, candidates=20), episodes=9, seed=0))
    assert len(told) == 1


def test_tables_of_what_was_not_measured_are_left_out() -> None:
    row = {"first": {"0.5": {"critic": 1.0}, "0.1": None}, "curves": {}}
    assert transfer.tables([row]).splitlines()[0] == "| first plan by | 50 % of the MACs | all |"
    assert transfer.tables([{"first": {}, "curves": {"0.5": {"gp": [[1, 0.5]]}}}]).startswith("| agent | 1 |")
    assert transfer.tables([{"first": {"0.1": None}, "curves": {}}]) == ""


def test_an_environment_that_tells_no_errors_is_refused() -> None:
    env = env_of()
    observation, info = env.reset()
    del info["errors"]
    with pytest.raises(ErrorsError, match="holds no errors of the choices"):
        make(env).act(observation, info, explore=True)


def test_the_tables_by_hand() -> None:
    first = {"0.3": {"uniform": 4.0, "critic": 1.0}, "0.5": {"uniform": 2.0, "critic": 0.0}}
    curves = {"gp": [[1, 4.0], [20, 0.1]], "pretrained": [[1, 1.0], [6, 0.0]]}
    rows = [{"first": first, "curves": {"0.3": curves}}]
    assert transfer.first_plans([rows[0] | {"first": {k: v for k, v in first.items() if v}}]).splitlines()[
        2:
    ] == [
        "| `uniform` | 4.00 | 2.00 | 3.00 [3.00, 3.00] |",
        "| `critic` | 1.00 | 0.00 | 0.50 [0.50, 0.50] |",
    ]
    gp, ours = transfer.searches(rows).splitlines()[2:]
    assert gp.startswith("| `gp` | 4.00 [4.00, 4.00] | 4.00")
    assert gp.endswith("| 20 |")
    assert ours.endswith("| 6 |")


def test_the_uniform_plan_is_that_of_the_uniform_agent() -> None:
    own = pretrain_agent.CriticTable("digits")
    for target in (0.3, 0.5):
        env = TabularEnv(own.table, target=target)
        agent = Uniform(env.observation_space, env.action_space, seed=0)
        (trial,) = search(env, agent, episodes=1, seed=0)
        assert own.top1[own.uniform(target)] == trial.episode.infos[-1]["top1"]


def test_critics_may_have_a_dot_in_their_name(tmp_path: Path) -> None:
    critics = pretrain_agent.ensemble([pretrain_agent.CriticTable("digits")], steps=1, seed=0)
    pretrain_agent.write(critics, tmp_path / "v1.2", ["digits"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1.2.json", "v1.2.safetensors"]


def test_a_search_does_not_go_on_with_other_critics(tmp_path: Path) -> None:
    env, mine = env_of(), tmp_path / "critic.safetensors"
    stored = {name: value * np.float32(1.5) for name, value in load_file(SHIPPED).items()}
    save_file(stored, mine)
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(mine.read_bytes()).hexdigest()
    mine.with_suffix(".json").write_text(json.dumps(card))
    state = make(env).state_dict()
    make(env).load_state_dict(state)
    with pytest.raises(StateError, match="critic"):
        make(env, critic=str(mine)).load_state_dict(state)
