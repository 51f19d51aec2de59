"""States on disk, from which a killed search or training resumes with the same result.

A state holds tensors and plain data; reading it runs nothing. It lies beside the one before it, which takes
its place where it is damaged. `load` gives only a search's state that is on the way to the rows.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch

from amc_env import files
from experiments.recording.record import ELSEWHERE, RecordError, RunRecord

STATE = "search.state"


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


def save(record: RunRecord, agent: Stateful) -> None:
    """Write the state after the record's last row, with the digest of the rows that it belongs to."""
    record.sync()
    state = {"episodes": len(record.rows), "chain": record.chain[-1], "agent": agent.state_dict()}
    write(record.folder / STATE, state)


def load(record: RunRecord, save_every: int) -> State | None:
    """The newest state that is whole and of this record's rows; None where none was saved yet.

    Args:
        record: as it is on the disk.
        save_every: episodes between two states.

    Raises:
        RecordError: where there was one, and none is left that can be gone on from.
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
    """Write a state after its SHA-256; the one before it is kept."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    if path.exists():
        path.replace(previous(path))
    files.write(path, files.sealed_bytes(content.getvalue()))


def previous(path: Path) -> Path:
    """Where the state before a state is kept."""
    return path.with_name(f"{path.name}.previous")


def remove(path: Path) -> None:
    """Delete a state and the one before it, where they are."""
    for each in (path, previous(path)):
        each.unlink(missing_ok=True)


def newest(path: Path, foreign: Callable[[Mapping[str, Any]], str | None]) -> dict[str, Any] | None:
    """The newest state of a path that is whole and belongs here; None where there is no file.

    Args:
        path: of the newest.
        foreign: why a state does not belong here; None for one that does.

    Raises:
        RecordError: when there are files and none can be used, with the reason of each.
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
                return dict(state)
            reasons.append(f"{each} {reason}")
    if reasons:
        raise RecordError(f"{'; '.join(reasons)}; {ELSEWHERE}")
    return None
