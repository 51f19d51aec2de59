"""States on disk, from which a killed search or training resumes with the same result.

A state holds tensors and plain data; reading it runs no code. The previous state is kept beside it and used
if it is damaged. `load` only returns states that match the rows of the record.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError, UnpicklingError
from typing import Any

import torch

from agents.episode import Agent, StateError
from amc_env import files
from experiments.recording.record import ELSEWHERE, RecordError, RunRecord

STATE = "search.state"


@dataclass(frozen=True)
class State:
    """The agent's state after a number of episodes; the rest of a search follows from its record."""

    episodes: int
    agent: dict[str, Any]


def save(record: RunRecord, agent: Agent) -> None:
    """Write the state after the record's last row, with the digest of the rows.

    Raises:
        StateError: for an agent whose state cannot be read back.
    """
    record.sync()
    found = readable(agent)
    write(record.folder / STATE, {"episodes": len(record.rows), "chain": record.chain[-1], "agent": found})


def readable(agent: Agent) -> dict[str, Any]:
    """The state of an agent.

    Raises:
        StateError: if it cannot be read back.
    """
    found = agent.state_dict()
    if odd := [str(name) for name, value in found.items() if not _readable(value)]:
        raise StateError(
            f"state_dict of {type(agent).__name__} has in {', '.join(odd)} what no state can hold: give "
            "tensors, numbers, text, and lists and dicts of these (array.tolist() for one of NumPy)"
        )
    return found


def _readable(value: Any) -> bool:
    """Whether a part of a state can be read back: a file is data, so `newest` builds no other objects."""
    content = io.BytesIO()
    try:
        torch.save(value, content)
        content.seek(0)
        torch.load(content, map_location="cpu", weights_only=True)
    except (UnpicklingError, PicklingError, AttributeError, TypeError):
        return False
    return True


def load(record: RunRecord, save_every: int) -> State | None:
    """The newest undamaged state of this record's rows; None if none was saved yet.

    Args:
        record: as it is on the disk.
        save_every: episodes between two states.

    Raises:
        RecordError: if there are states but none can be used.
    """

    def foreign(state: Mapping[str, Any]) -> str | None:
        episodes = state.get("episodes", len(record.chain))
        if episodes < len(record.chain) and record.chain[episodes] == state.get("chain"):
            return None
        return f"is of other rows than those of {record.folder}"

    state = newest(record.folder / STATE, foreign)
    if state is not None:
        return State(state["episodes"], state["agent"])
    played = sum("reward" in row for row in record.rows)
    if played > save_every:
        raise RecordError(f"{record.folder} has {played} episodes and no {STATE}; {ELSEWHERE}")
    return None


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state with its SHA-256; the previous one is kept."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    if path.exists():
        path.replace(previous(path))
    files.write(path, files.sealed_bytes(content.getvalue()))


def previous(path: Path) -> Path:
    """The path of the previous state."""
    return path.with_name(f"{path.name}.previous")


def remove(path: Path) -> None:
    """Delete a state and the previous one, if they exist."""
    for each in (path, previous(path)):
        each.unlink(missing_ok=True)


def newest(path: Path, foreign: Callable[[Mapping[str, Any]], str | None]) -> dict[str, Any] | None:
    """The newest undamaged state of a path that belongs here; None without a file.

    Args:
        path: of the newest.
        foreign: returns why a state does not belong here, or None.

    Raises:
        RecordError: if there are files but none can be used, with the reasons.
    """
    reasons = []
    for each in (path, previous(path)):
        try:
            content = io.BytesIO(files.read_sealed(each))
            state = torch.load(content, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except (OSError, files.DamagedError, RuntimeError, UnpicklingError, EOFError) as error:
            reasons.append(str(error))
        else:
            reason = foreign(state) if isinstance(state, dict) else "is no state"
            if reason is None:
                if reasons:
                    print(f"{'; '.join(reasons)}: going on from the state before it")
                    if not path.is_dir():
                        each.replace(path)  # or the next state would put the damaged one in its place
                return dict(state)
            reasons.append(f"{each} {reason}")
    if reasons:
        raise RecordError(f"{'; '.join(reasons)}; {ELSEWHERE}")
    return None
