"""Two comparisons become one: contenders are added to a committed table, and no other is run again."""

from collections.abc import Mapping
from typing import Any

SAME = ("table", "experiment", "targets", "seeds", "episodes")  # keys of the config that have to agree


class JoinError(ValueError):
    """Comparisons that do not stand side by side."""


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The old record with the new one's contenders, which take the place of old ones of the same name.

    ``commits`` says of which commit each contender is, where they differ.

    Args:
        old: a committed record of `experiments.compare`.
        new: another of the same table or network, targets, seeds and number of evaluations.

    Raises:
        JoinError: when these are not the same, with what differs.
    """
    pairs = [(key, old["config"].get(key), new["config"].get(key)) for key in SAME]
    pairs.append(("known_best", old["results"].get("known_best"), new["results"].get("known_best")))
    if differing := [f"{key} is {a!r} and {b!r}" for key, a, b in pairs if a != b]:
        raise JoinError(
            f"these comparisons cannot be joined: {'; '.join(differing)}; keep it by another name"
        )
    contenders = old["config"]["contenders"] | new["config"]["contenders"]
    rows = [row for row in old["rows"] if row["contender"] not in new["config"]["contenders"]]
    commits = old.get("commits") or dict.fromkeys(old["config"]["contenders"], old["commit"])
    return {
        **new,
        "config": new["config"] | {"contenders": contenders},
        "rows": [*rows, *new["rows"]],
        "commits": commits | dict.fromkeys(new["config"]["contenders"], new["commit"]),
        "seconds": {key: old["seconds"].get(key, 0.0) + value for key, value in new["seconds"].items()},
    }
