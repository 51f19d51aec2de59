"""Joins records: a committed record gains contenders, seeds or plans without running the others again."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from experiments.recording.record import THEN

APART = ("contenders", "targets", "one_shot", "first_seed", "seeds")  # keys of the config that may differ
SAME = ("table", "groups", "weights", "data")  # of the results, what may not, where both records have it
AND = " and "  # between the commits of one contender
DENSE = 0.002  # accuracies of one network that two machines measure differ by less
UNUSED: tuple[Any, ...] = (None, [], {})  # of a setting that does nothing, or that a version does not have
OF_PART = ("part", "output")  # keys of the config in which the parts of one fidelity table differ


class JoinError(ValueError):
    """Records that cannot be joined."""


def commits_in(text: str) -> list[str]:
    """The commits that a record names, without marks of uncommitted changes."""
    return [each.removesuffix("-dirty") for part in text.split(AND) for each in part.split(THEN)]


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The old record with the new rows, which replace old rows of the same search.

    If a contender's settings have changed, all of its old rows go. ``commits`` lists the commits of each
    contender. The order of the rows does not depend on which record was first.

    Args:
        old: a committed record of `experiments.compare` or `experiments.policies`.
        new: another of the same table or network and settings; contenders, targets and seeds may be others.

    Raises:
        JoinError: if table, network or settings differ; the message lists the differences.
    """
    _check(old, new)
    contenders = old["config"]["contenders"] | new["config"]["contenders"]
    fresh = {search(row) for row in new["rows"]}
    kept = [
        row
        for row in old["rows"]
        if search(row) not in fresh
        and old["config"]["contenders"].get(search(row)[0]) == contenders.get(search(row)[0])
    ]
    rows = sorted([*kept, *new["rows"]], key=search)
    first, last = (f(row["seed"] for row in rows) for f in (min, max))
    seeds = {"first_seed": first, "seeds": last - first + 1}
    before, now = ({search(row)[0] for row in some} for some in (kept, new["rows"]))
    commits = {name: set[str]() for name in {*contenders, *before, *now}}
    for record, names in ((old, before), (new, now)):
        for name in names:
            commits[name] |= set((record.get("commits") or {}).get(name, record["commit"]).split(AND))
    targets = sorted({*old["config"]["targets"], *new["config"]["targets"]}, reverse=True)
    config = new["config"] | {"contenders": contenders, "targets": targets} | seeds
    missing = set(product(contenders, targets)) - {search(row)[:2] for row in rows}
    results = old["results"] | new["results"]
    if "known_best" in results:
        results["known_best"] = old["results"]["known_best"] | new["results"]["known_best"]
    if "one_shot" in config:
        config["one_shot"] = sorted({*old["config"]["one_shot"], *config["one_shot"]})
    return {
        **{key: value for key, value in new.items() if key != "stopped"},
        "config": config,
        "seeds": {"first": first, "runs": seeds["seeds"]},
        "results": results,
        "rows": rows,
        "commits": {name: AND.join(sorted(found)) for name, found in commits.items()},
        "seconds": {
            key: round(sum(record["seconds"].get(key, 0.0) for record in (old, new)), 3)
            for key in old["seconds"] | new["seconds"]
        },
    } | ({"stopped": True} if missing and (old.get("stopped") or new.get("stopped")) else {})


def search(row: Mapping[str, Any]) -> tuple[str, float, int]:
    """The search of a row: contender or policy, target and seed."""
    return str(row["contender"] if "contender" in row else row["policy"]), row["target"], row["seed"]


def _check(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    pairs = [
        (key, old["config"].get(key), new["config"].get(key))
        for key in sorted(old["config"] | new["config"])
        if key not in APART
    ]
    pairs = [(key, a, b) for key, a, b in pairs if not (a in UNUSED and b in UNUSED)]
    known, again = (record["results"].get("known_best", {}) for record in (old, new))
    pairs += [(f"the best at {target}", known[target], again[target]) for target in known.keys() & again]
    pairs += [
        (key, old["results"][key], new["results"][key])
        for key in SAME
        if key in old["results"] and key in new["results"]
    ]
    dense, again = (record["results"].get("dense") or {} for record in (old, new))
    pairs += [
        (f"the dense network's {split} accuracy", dense[split], again[split])
        for split in ("selection", "test")
        if split in dense and split in again and abs(dense[split] - again[split]) > DENSE
    ]
    if differing := [f"{key} is {a!r} and {b!r}" for key, a, b in pairs if a != b]:
        raise JoinError(
            f"these comparisons cannot be joined: {'; '.join(differing)}; keep it by another name"
        )


def joined_parts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Joins two records of `experiments.fidelity` that measured different plans of the same set.

    Args:
        old: a committed record.
        new: of the same settings but for ``part`` and ``output``.

    Raises:
        JoinError: if settings differ, or a plan is in both.
    """
    configs = [{k: v for k, v in each["config"].items() if k not in OF_PART} for each in (old, new)]
    differing = [key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key)]
    weights = {record["results"].get("weights") for record in (old, new)} - {None}
    if differing := [*differing, *(["weights"] if len(weights) > 1 else [])]:
        raise JoinError(
            f"these parts cannot be joined: {', '.join(differing)} differ; keep it by another name"
        )
    seconds = {key: old["seconds"].get(key, 0.0) + value for key, value in new["seconds"].items()}
    rows = sorted([*old["rows"], *new["rows"]], key=lambda row: row["plan"])
    if len({row["plan"] for row in rows}) < len(rows):
        raise JoinError("these parts have plans in common: this one is kept already")
    commits = {*old["commit"].split(AND), *new["commit"].split(AND)}
    whole = new["config"] | ({"part": [0, 1]} if len(rows) >= new["config"]["plans"] else {})
    results = old["results"] | new["results"]
    return {
        **new, "commit": AND.join(sorted(commits)), "config": whole, "results": results, "rows": rows,
        "seconds": seconds,
    }  # fmt: skip


def gathered(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Joins two surveys; a network in both is taken from the new one.

    Raises:
        JoinError: for surveys of unequal numbers of plans.
    """
    if old["config"]["plans"] != new["config"]["plans"]:
        raise JoinError(
            f"{old['config']['plans']} plans a network there, {new['config']['plans']} here: give plans="
            f"{old['config']['plans']}"
        )
    rows = {row["network"]: row for row in (*old["rows"], *new["rows"])}
    commits = old.get("commits") or {old["commit"]: old["commit"]}
    return {
        **new,
        "config": new["config"] | {"models": sorted({*old["config"]["models"], *new["config"]["models"]})},
        "rows": [rows[name] for name in sorted(rows)],
        "commits": commits | {new["commit"]: new["commit"]},
        "seconds": {key: old["seconds"].get(key, 0.0) + value for key, value in new["seconds"].items()},
    }
