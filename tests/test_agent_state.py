"""What an agent's state may hold, checked before a search relies on it."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.episode import StateError
from experiments.recording import state
from experiments.recording.record import RunRecord


class Keeper:
    """An agent of a given state."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept

    def state_dict(self) -> dict[str, Any]:
        return self.kept


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    made = RunRecord.create(tmp_path, {}, seeds={})
    made.add(reward=-0.5)
    return made


def test_plain_data_and_tensors_come_back(record: RunRecord) -> None:
    kept = {"a": torch.ones(2), "b": [1, 0.5, "c", None, True], "d": OrderedDict(e=(1, 2)), "f": b"g"}
    state.save(record, Keeper(kept))  # type: ignore[arg-type]
    found = state.load(record, 1)
    assert found is not None
    assert torch.equal(found.agent.pop("a"), kept.pop("a"))
    assert found.agent == kept


@pytest.mark.parametrize("value", [np.ones(2), [np.random.default_rng(0)], {"deep": Path("x")}, lambda: 0])
def test_what_cannot_be_read_back_is_told_where_it_would_be_saved(record: RunRecord, value: object) -> None:
    with pytest.raises(
        StateError, match=r"state_dict of Keeper has in best what no state can hold: .*tolist"
    ):
        state.save(record, Keeper({"sigma": 0.5, "best": value}))  # type: ignore[arg-type]
    with pytest.raises(StateError, match="has in best what no state can hold"):
        state.readable(Keeper({"best": value}))  # type: ignore[arg-type]
    assert [path.name for path in record.folder.glob("*.state*")] == []
