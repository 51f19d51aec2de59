"""A plan: the kept channels of a network. It passes from search to fine-tuning to export."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from amc_env import files
from amc_env.checks import number_of
from amc_env.graph.structure import Graph


class PlanError(ValueError):
    """A plan that is malformed or belongs to another network."""


@dataclass(frozen=True)
class Plan:
    """The kept positions of each channel group.

    Attributes:
        graph: hash of the graph that it was made for.
        kept: for each group its kept positions, ascending; None while the group is open and whole.
    """

    graph: str
    kept: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def dense(cls, graph: Graph) -> "Plan":
        """The plan that keeps everything."""
        return cls(graph.hash, (None,) * len(graph.groups))

    def with_group(self, group: int, positions: tuple[int, ...]) -> "Plan":
        """A copy in which one group keeps these positions."""
        return replace(self, kept=(*self.kept[:group], positions, *self.kept[group + 1 :]))

    @cached_property
    def hash(self) -> str:
        """Equal for equal plans, on any machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def check(self, graph: Graph) -> None:
        """Raise a `PlanError` unless the plan fits a graph and leaves every layer a channel."""
        if self.graph != graph.hash:
            raise PlanError(f"the plan was made for the network {self.graph}, this one is {graph.hash}")
        if len(self.kept) != len(graph.groups):
            raise PlanError(
                f"the plan has {number_of(len(self.kept), 'group')}, the network {len(graph.groups)}"
            )
        for group, positions in zip(graph.groups, self.kept, strict=True):
            if positions is None:
                continue
            where = f"group {group.index} ({graph.consumer(group).name})"
            if not positions:
                raise PlanError(f"{where}: nothing is kept; keep at least one of {len(group)}")
            if list(positions) != sorted(set(positions)) or positions[0] < 0 or positions[-1] >= len(group):
                raise PlanError(f"{where}: kept positions are ascending, distinct, in 0..{len(group) - 1}")
        mask = graph.mask(self.kept)
        for layer in graph.layers:
            if not mask[layer.reads].any() or not mask[layer.writes].any():
                raise PlanError(
                    f"layer {layer.name} is left without channels; keep one that it reads or writes"
                )

    def keeps(self, graph: Graph) -> list[float]:
        """The fraction kept of each group, in [0, 1]."""
        return [1.0 if k is None else len(k) / len(g) for g, k in zip(graph.groups, self.kept, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"graph": self.graph, "kept": [None if kept is None else list(kept) for kept in self.kept]}

    @classmethod
    def from_dict(cls, facts: Any) -> "Plan":
        """The inverse of `to_dict`."""
        if not isinstance(facts, dict):
            raise PlanError(f"a plan is an object with graph and kept, not a {type(facts).__name__}")
        graph, kept = facts.get("graph"), facts.get("kept")
        if not isinstance(graph, str) or not isinstance(kept, list):
            raise PlanError(f'a plan holds "graph", a hash, and "kept", a list; here are {sorted(facts)}')
        for group, positions in enumerate(kept):
            if positions is not None and not _whole_numbers(positions):
                raise PlanError(f"group {group}: kept is a list of whole numbers or null, not {positions!r}")
        return cls(graph, tuple(None if positions is None else tuple(positions) for positions in kept))

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def write(self, path: Path) -> None:
        """Write a file that `read` reads."""
        files.write(path, json.dumps(files.seal(self.to_dict())) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan from a file of `write`, or from the entry "plan" of a card."""
        try:
            facts = files.read_json(path)
            return cls.from_dict(facts.get("plan", facts))
        except OSError as error:
            raise PlanError(f"{path} cannot be read as a plan: {error}") from error
        except files.DamagedError as error:
            raise PlanError(f"{error}; take it from its source again") from error
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(entry) is int for entry in value)  # bool is a subclass of int
