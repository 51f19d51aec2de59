"""The state of a search on disk, from which a killed search resumes with the same result."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from amc_env import files

STATE, PREVIOUS = "search.state", "search.state.previous"


class Stateful(Protocol):
    """An agent, as far as its state goes."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data only."""
        ...


@dataclass(frozen=True)
class State:
    """The agent's state after so many episodes; everything else of a search follows from its record."""

    episodes: int
    agent: dict[str, Any]


def save(folder: Path, agent: Stateful, episodes: int) -> None:
    """Write the state after its SHA-256; the state before it is kept as `PREVIOUS`."""
    content = io.BytesIO()
    torch.save({"episodes": episodes, "agent": agent.state_dict()}, content)
    path = folder / STATE
    if path.exists():
        path.replace(folder / PREVIOUS)
    files.write(path, hashlib.sha256(content.getvalue()).digest() + content.getvalue())


def load(folder: Path) -> State | None:
    """The newest undamaged state, None where there is none; says so when the newest is damaged.

    Nothing is executed: a state holds tensors and plain data.
    """
    for path in (folder / STATE, folder / PREVIOUS):
        if not path.exists():
            continue
        found = path.read_bytes()
        if hashlib.sha256(found[32:]).digest() == found[:32]:
            state = torch.load(io.BytesIO(found[32:]), weights_only=True)
            return State(state["episodes"], state["agent"])
        print(f"{path} is damaged: going on from the state before it")
    return None
