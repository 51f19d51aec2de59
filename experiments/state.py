"""The state of a search on disk: what lets a killed one go on as if nothing had happened."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
    """Write the state beside the old one, then put it in its place; the old one stays as the previous."""
    import torch

    partial, path = folder / f"{STATE}.part", folder / STATE
    torch.save({"episodes": episodes, "agent": agent.state_dict()}, partial)
    if path.exists():
        os.replace(path, folder / PREVIOUS)
    os.replace(partial, path)


def load(folder: Path) -> State | None:
    """The newest readable state, None where there is none; says so when the newest was damaged.

    Nothing is executed: a state holds tensors and plain data.
    """
    for name in (STATE, PREVIOUS):
        if not (folder / name).exists():
            continue
        import torch

        try:
            found = torch.load(folder / name, weights_only=True)
            return State(found["episodes"], found["agent"])
        except (RuntimeError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
            print(f"{folder / name} is damaged ({error}); trying the one before")
    return None
