"""The names of a search's networks, in the table that it ends with and in its record."""

from collections.abc import Mapping
from typing import Any

DENSE, UNIFORM, FOUND = "dense", "uniform", "found"
FOUND_BEFORE = "AMC"  # what records from before this name call the network that a search found
TUNED = ", tuned"  # ends the name of a network after fine-tuning


def after_tuning(name: str) -> str:
    """The name of a network after fine-tuning, as records have it: "found, tuned"."""
    return f"{name}{TUNED}"


def spelled_out(name: str) -> str:
    """The name of a network as people read it: "found, fine-tuned"."""
    return name.replace(TUNED, ", fine-tuned")


def table_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The final table in the results of a record, with today's names; empty without one."""
    return {name.replace(FOUND_BEFORE, FOUND): row for name, row in results.get("table", {}).items()}
