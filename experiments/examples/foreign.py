"""Learners of others on a table: ``python -m experiments.examples.foreign TABLE FOLDER``.

One is PPO of Stable-Baselines3, the other a DDPG that fits on a page. They know nothing of this project and
drive a Gymnasium environment themselves; a wrapper notes what they find. ``python -m experiments.report keep
FOLDER TABLE`` adds the record to those of `experiments.compare`.
"""

import argparse
import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor, nn

from amc_env import tabular
from amc_env.tabular import TabularEnv
from experiments.analysis.keeping import commit_advice
from experiments.recording.lock import alone
from experiments.recording.opening import opened
from experiments.recording.record import RecordError
from experiments.searching.compare import note_table

Env = gym.Env[Any, Any]

EPISODES, TARGETS = 400, (0.5, 0.3)
SCALE = "relative"  # an action of 0.5 asks for the share of the budget that is left
UPDATE = 20  # episodes between two updates of PPO
BATCH, TAU, NOISE, START = 64, 0.005, 0.1, 25  # of the DDPG: START episodes are random


class EndedError(Exception):
    """The evaluations are used up, or the best plan of the table is found."""


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Notes each improvement, and ends a learner by an exception; actions lie in [-1, 1]."""

    def __init__(self, env: TabularEnv) -> None:
        super().__init__(gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)))
        self.best, self.highest = env.known_best.top1, -np.inf
        self.curve, self.seen, self.played = list[tuple[int, float]](), set[Any](), 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One decision; the last of an episode is an evaluation."""
        observation, reward, ended, cut_off, info = self.env.step(action)
        if ended:
            self.played += 1
            self.seen.add(info["plan"].kept)
            if float(reward) > self.highest:
                self.highest = float(reward)
                self.curve.append((self.played, round(info["top1"], 6)))
            if self.played == EPISODES or info["top1"] >= self.best:
                raise EndedError
        return observation, reward, ended, cut_off, info


def ppo(env: Env, decisions: int, seed: int) -> None:
    """PPO with the library's settings, but that it updates often enough for a few hundred episodes."""
    steps = UPDATE * decisions
    model = PPO("MlpPolicy", env, n_steps=steps, batch_size=steps, gamma=1.0, seed=seed, device="cpu")
    model.learn(2 * EPISODES * decisions)


def ddpg(env: Env, decisions: int, seed: int) -> None:
    """DDPG with normal noise, written from the paper alone (Lillicrap et al., ICLR 2016)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    assert env.observation_space.shape is not None
    size = env.observation_space.shape[0]
    actor, critic = nn.Sequential(network(size, 1), nn.Tanh()), network(size + 1, 1)
    slow_actor, slow_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3) for part in (actor, critic)]
    memory: list[tuple[Any, ...]] = []
    while True:
        (state, _), ended = env.reset(seed=seed), False
        while not ended:
            mu = actor(torch.as_tensor(state)).detach().numpy()
            noisy = np.clip(mu + NOISE * rng.standard_normal(1), -1, 1)
            action = (noisy if len(memory) > START * decisions else rng.uniform(-1, 1, 1)).astype(np.float32)
            following, reward, ended, _, _ = env.step(action)
            memory.append((state, action, [np.float32(reward)], following, [np.float32(ended)]))
            state = following
            if len(memory) <= START * decisions:
                continue
            rows = [memory[at] for at in rng.integers(len(memory), size=BATCH)]
            s, a, r, after, last = (torch.as_tensor(np.stack(part)) for part in zip(*rows, strict=True))
            with torch.no_grad():
                wanted = r + (1 - last) * slow_critic(torch.cat([after, slow_actor(after)], 1))
            descend(optimizers[1], (critic(torch.cat([s, a], 1)) - wanted).square().mean())
            descend(optimizers[0], -critic(torch.cat([s, actor(s)], 1)).mean())
            follow(slow_actor, actor)
            follow(slow_critic, critic)


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two layers of 256 units."""
    return nn.Sequential(
        nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs)
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module) -> None:
    """Move a target network towards the one that learns."""
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, TAU)


LEARNERS: dict[str, Callable[[Env, int, int], None]] = {"sb3_ppo": ppo, "one_file_ddpg": ddpg}


def searched(name: str, table: str, target: float, seed: int) -> dict[str, Any]:
    """One search, as a row of `experiments.compare`."""
    env = TabularEnv(table, target=target, scale=SCALE)
    watched = Watched(env)
    try:
        LEARNERS[name](watched, env.reset()[1]["decisions"], seed)
    except EndedError:
        return {"curve": watched.curve, "played": watched.played, "distinct": len(watched.seen)}
    raise RuntimeError(f"{name} ended after {watched.played} of {EPISODES} evaluations")


def main(table: str, folder: str, first_seed: int = 0, seeds: int = 1) -> None:
    """Write the record of both learners, some seeds a target; the same call goes on where it was killed."""
    settings = {
        "contenders": {name: {"agent": {"_target_": name}, "env": {"scale": SCALE}} for name in LEARNERS},
        "table": table, "targets": list(TARGETS), "episodes": EPISODES,
        "first_seed": first_seed, "seeds": seeds,
    }  # fmt: skip
    runs = {"first": first_seed, "runs": seeds}
    with alone(Path(folder)), opened(Path(folder), settings, seeds=runs) as record:
        note_table(record, tabular.load(table), TARGETS)
        jobs = list(product(range(first_seed, first_seed + seeds), TARGETS, LEARNERS))
        with record.phase("search"):
            for seed, target, name in jobs[len(record.rows) :]:
                record.add(contender=name, target=target, seed=seed, **searched(name, table, target, seed))
    print(f"written: {folder}{commit_advice(Path(folder), table)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", choices=sorted(tabular.names()), help="of the tabular benchmark")
    parser.add_argument("folder", help="where the record is written")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each learner at each target")
    asked = parser.parse_args()
    if asked.seeds < 1 or asked.first_seed < 0:
        parser.error(
            f"seeds is at least 1 and first-seed at least 0, not {asked.seeds} and {asked.first_seed}"
        )
    try:
        main(**vars(asked))
    except RecordError as error:
        parser.error(str(error))
