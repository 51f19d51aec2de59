"""Trains the critics of `agents.pretrained` on all tables but one, and plays them on that one.

A row of the record is a table: the regret of first plans, by budget, and the curves of searches. At the end
critics of all tables are trained and written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from safetensors.numpy import save
from torch import Tensor

from agents import critic as critics
from agents.additive import Additive
from agents.critic import Critic, Ensemble
from agents.damage import damages
from agents.gp_errors import GPErrors
from agents.lattice import Lattice, summed
from agents.pretrained import Pretrained
from agents.surrogate import GP
from amc_env import files, tabular
from amc_env.budget import BudgetError
from amc_env.tabular import TabularEnv
from experiments.cli import config
from experiments.recording import opening
from experiments.recording.progress import Meter
from experiments.recording.provenance import commit
from experiments.recording.record import RECORD
from experiments.searching.compare import play

HIDDEN = 16
MEMBERS = 6  # critics, each of a random half of the tables
BATCH = 128  # plans of a table in a step
BAND = 0.15  # width of the budgets from which a step's plans are drawn, in shares of the dense cost
FEW = 20  # plans within a budget, below which it is no task
SEARCHERS = {"additive": Additive, "gp": GP, "gp_errors": GPErrors, "pretrained": Pretrained}
LEAST = 2  # tables


class CriticTable:
    """A table as the critic sees it: every plan, its cost and its loss.

    Args:
        name: of the table.
    """

    def __init__(self, name: str) -> None:
        self.name, self.table = name, tabular.load(name)
        _, info = TabularEnv(self.table, target=1.0).reset()
        self.errors, self.lattice = info["errors"], Lattice(info["choices"], info["costs"])
        shape = self.table.columns["top1"].shape
        self.plans = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)
        self.share = self.table.columns["macs"].ravel() / self.table.columns["macs"].max()
        self.top1 = self.table.columns["top1"].ravel() / self.table.card.n_images
        self.log_kl = torch.from_numpy(np.log(self.table.columns["kl"].ravel() + critics.TINY))
        self.features = torch.from_numpy(critics.features(self.lattice, self.errors)).float()
        each = [np.array(error)[self.plans[:, t]] for t, error in enumerate(self.errors)]
        self.lost = torch.from_numpy(np.stack(each, axis=1)).float()

    def regrets(self, critic: Ensemble, target: float) -> dict[str, float] | None:
        """Regret of first plans within a budget, in points; None if few plans are within it.

        ``uniform`` and ``least_error`` are the plans of these policies; ``critic`` has the least doubted
        damage, in comparison with the largest plan of equal levels.
        """
        within = np.flatnonzero(self.share <= target)
        if len(within) < FEW:
            return None
        even = (self.plans[within] == self.plans[within, :1]).all(1)
        equal = within[even][-1] if even.any() else within[0]
        doubted = critic.doubted(self.lattice, self.errors, self.plans[within], self.plans[[equal]])
        chosen = {
            "uniform": self.uniform(target),
            "least_error": within[int(summed(damages({"errors": self.errors}), self.plans[within]).argmin())],
            "critic": within[int(doubted.argmin())],
        }
        best = self.top1[within].max()
        return {name: 100 * float(best - self.top1[at]) for name, at in chosen.items()}

    def uniform(self, target: float) -> int:
        """The row of the uniform policy's plan."""
        budget = TabularEnv(self.table, target=target).budget
        counts = budget.follow(lambda group, share: share)
        index = tuple(map(int, map(np.searchsorted, budget.choices, counts)))
        return int(np.ravel_multi_index(index, self.table.columns["top1"].shape))


def main(cfg: DictConfig, folder: Path) -> None:
    """Leave each table out once, then train on all; resumes an unfinished record."""
    settings = config.plain(cfg)
    del settings["critic"]  # it says where a copy lies, not what is trained
    record = opening.opened(folder, settings, seeds={"training": 0})
    if len(tabular.names()) < LEAST:
        raise config.ConfigError(f"critics are trained on all tables but one, here is {len(tabular.names())}")
    tables = [CriticTable(name) for name in tabular.names()]
    done = {row["table"] for row in record.rows}
    with record, record.phase("tables"), Meter("tables", len(tables), done=len(done)) as meter:
        for left_out in tables:
            if left_out.name not in done:
                others = [table for table in tables if table is not left_out]
                record.add(table=left_out.name, **held_out(left_out, others, cfg, folder))
                meter.update(len(record.rows))
        write(ensemble(tables, steps=cfg.steps, seed=0), Path(cfg.critic), [s.name for s in tables])
    print(f"written: {folder / RECORD} and {cfg.critic}.safetensors")


def held_out(
    left_out: CriticTable, others: Sequence[CriticTable], cfg: DictConfig, folder: Path
) -> dict[str, Any]:
    """Train critics on the other tables, and evaluate them on this one."""
    critic = ensemble(others, steps=cfg.steps, seed=0)
    first = {str(target): left_out.regrets(critic, target) for target in cfg.targets}
    path = folder / "critics" / left_out.name
    write(critic, path, [other.name for other in others])
    curves: dict[str, dict[str, Any]] = {}
    for target in cfg.searched:
        try:
            env = TabularEnv(left_out.table, target=target, scale="absolute")
        except BudgetError:
            continue
        best = env.known_best.top1
        for name, kind in SEARCHERS.items():
            own = {"critic": f"{path}.safetensors"} if kind is Pretrained else {}
            agent = kind(env.observation_space, env.action_space, seed=0, **own)
            found = play(env, agent, episodes=cfg.episodes, seed=0)["curve"]
            curves.setdefault(str(target), {})[name] = [[at, 100 * (best - top1)] for at, top1 in found]
    return {"first": first, "curves": curves}


class Learner(torch.nn.Module):
    """The parameters of a `Critic` in torch, with `agents.critic.Critic.damage` for training."""

    def __init__(self, features: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.mean, self.scale = features.mean(0), features.std(0) + critics.TINY
        drawn = torch.randn(features.size(1), HIDDEN, generator=generator) / features.size(1) ** 0.5
        self.hidden_weight = torch.nn.Parameter(drawn)
        self.hidden_bias = torch.nn.Parameter(torch.zeros(HIDDEN))
        self.weight = torch.nn.Parameter(torch.zeros(HIDDEN, 2))
        self.bias = torch.nn.Parameter(torch.zeros(2))
        self.power = torch.nn.Parameter(torch.zeros(1))
        self.steep = torch.nn.Parameter(torch.zeros(1))  # ln of the power of the sum; changes no rank

    def forward(self, features: Tensor, lost: Tensor) -> Tensor:
        """``(n,)`` predicted ln KL, up to a constant, of plans with errors ``(n, T)``."""
        x = (features - self.mean) / self.scale
        out = torch.tanh(x @ self.hidden_weight + self.hidden_bias) @ self.weight + self.bias
        power = torch.exp(self.power + critics.BEND * torch.tanh(out[:, 1]))
        total = (torch.exp(out[:, 0]) * (lost + critics.FLOOR) ** power).sum(1)
        return torch.log(total + 1e-4) * torch.exp(self.steep)

    def critic(self) -> Critic:
        """The trained critic."""
        found = {name: getattr(self, name).detach().double().numpy() for name in critics.PARAMETERS}
        return Critic(found)


def ensemble(tables: Sequence[CriticTable], *, steps: int, seed: int) -> Ensemble:
    """Critics, each `trained` on a random half of the tables."""
    rng, count = np.random.default_rng(seed), max(1, len(tables) // 2)
    halves = [rng.choice(len(tables), count, replace=False) for _ in range(MEMBERS)]
    return Ensemble(
        tuple(
            trained([tables[at] for at in half], steps=steps, seed=seed + m) for m, half in enumerate(halves)
        )
    )


def trained(tables: Sequence[CriticTable], *, steps: int, seed: int) -> Critic:
    """Regress ln KL of plans at random budgets; good plans weigh more, and each table has its own intercept.

    Args:
        tables: to train on.
        steps: of AdamW, each on `BATCH` plans of each table.
        seed: of the first weights and the plans.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    learner = Learner(torch.cat([table.features for table in tables]), generator)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(steps):
        losses = []
        for table in tables:
            rows = drawn(table.share, rng)
            if len(rows):
                predicted = learner(table.features, table.lost[rows])
                losses.append(weighted_square(predicted, table.log_kl[rows]))
        if losses:  # else no table has enough plans at the drawn budgets
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
    return learner.critic()


def drawn(share: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of `BATCH` plans just within a random budget; empty if there are too few."""
    target = rng.uniform(0.15, 0.8)
    rows = np.flatnonzero((share <= target) & (share >= target - BAND))
    return rng.choice(rows, min(BATCH, len(rows)), replace=False) if len(rows) >= FEW else rows[:0]


def weighted_square(predicted: Tensor, log_kl: Tensor) -> Tensor:
    """The mean square error without the intercept, weighted by one over a plan's KL."""
    weight = torch.exp(log_kl.min() - log_kl)
    weight = weight / weight.sum()
    apart = predicted - log_kl
    return (weight * (apart - (weight * apart).sum()).square()).sum()


def write(critic: Ensemble, path: Path, tables: Sequence[str]) -> None:
    """Write critics and their card in the format of `agents.critic.read`."""
    content = save(
        {
            name: np.stack([member.parameters[name] for member in critic.critics])
            for name in critics.PARAMETERS
        }
    )
    card: Mapping[str, Any] = {
        "format": critics.FORMAT,
        "features": list(critics.FEATURES),
        "tables": list(tables),
        "commit": commit(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(card, indent=1, sort_keys=True) + "\n"
    endings: dict[str, bytes | str] = {".safetensors": content, ".json": text}
    files.write_all({path.with_name(f"{path.name}{ending}"): each for ending, each in endings.items()})
