"""Reads searches from a folder of runs or from committed records."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.rules import is_rule
from experiments.analysis.run import SPLITS, Kept, Run
from experiments.recording.committed import read_committed
from experiments.recording.networks import DENSE, FOUND, after_tuning, table_of
from experiments.recording.record import RECORD, RecordError, RunRecord

RUNTIME, BATCH = "onnx", 1  # whose milliseconds stand for a network's in figures, as ``ms``
PRIVATE = ("output=", "hydra.")  # overrides that say where a run went, not what it is
SEEDS = ("seed", "finetune.seed", "recipe.seed", "first_seed", "seeds", "targets", "save_every", "deliver")
"""Settings in which the runs of one mean may differ, beside those of ``tracking``."""
OF_PROBLEM = (
    "data.", "model.", "compressor.", "protocol.", "finetune.", "recipe.", "keep_whole", "part", "metric",
    "confirm", "env.reward_images",
)  # fmt: skip
"""Beginnings of the settings that all runs of a comparison have to share."""


class RunsError(ValueError):
    """A folder that holds no runs."""


def load(folder: Path) -> tuple[list[Run], list[str]]:
    """All searches below a folder, and a note for each record that is no search or cannot be read.

    Raises:
        RunsError: when there is no search in it.
    """
    found, notes = list[Run](), list[str]()
    for path in sorted(folder.rglob(RECORD)):
        name = str(path.parent.relative_to(folder)) if path.parent != folder else folder.resolve().name
        try:
            record = RunRecord.read(path.parent)
        except RecordError as error:
            notes.append(f"left out: {error}")
            continue
        content = record.content | {"rows": record.rows}
        made = list(of_record(name, content, path.parent))
        found += made
        if not made:
            notes.append(f"left out: {name} is no search")
    if not found:
        there = "does not exist" if not folder.is_dir() else "holds no record of a search"
        raise RunsError(f"{folder} {there}: give runs=FOLDER, the output of a search or of a sweep")
    notes += [
        f"{run.name} is {run.status}: {run.agent}, {100 * run.target:g} % of the {run.resource}, "
        f"seed {run.seed}"
        for run in found
        if run.status != "finished"
    ]
    notes += units(found)
    found, again = without_repeats(found)
    return told_apart(found), notes + again


def units(found: Iterable[Run]) -> list[str]:
    """A note for each run whose accuracies are values of another metric."""
    return [
        f"{run.name}: its accuracies are values of {metric}, times 100"
        for run in found
        if (metric := run.config.get("metric"))
    ]


def without_repeats(found: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Each finished search once, and a note for each that is the same as another one."""
    first, kept, notes = dict[str, str](), list[Run](), list[str]()
    for run in found:
        unique = "" if run.status == "finished" else run.name
        tuning = (run.config.get("finetune") or run.config.get("recipe") or {}).get("seed")
        known = (unique, run.agent, run.seed, tuning, run.target, run.weights, run.epochs)
        key = repr((*known, run.commit, run.curve, run.after, *_leaves(run.config)))
        if key in first:
            notes.append(f"left out: {run.name} is the same search as {first[key]}")
            continue
        first[key] = run.name
        kept.append(run)
    return kept, notes


def told_apart(found: Sequence[Run]) -> list[Run]:
    """Runs that differ in more than seeds are told apart by these settings in their agents' names.

    Settings of the problem (data, network, compressor and so on) must not differ within one comparison, all
    others not within the runs of one agent.
    """
    contests: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in found:
        contests[run.problem, run.resource, run.target, run.setting].append(run)
    agents = dict[str, str]()
    for compared in contests.values():
        for agent in {run.agent for run in compared}:
            own = [run for run in compared if run.agent == agent]
            of_problem = {key for key in differing(compared) if key.startswith(OF_PROBLEM)}
            names = sorted(of_problem | differing(own))
            for run in own:
                each = dict(_leaves(run.config))
                words = [f"{key}={each[key]}" for key in names if key in each]
                agents[run.name] = " ".join([run.agent, *words])
    return [replace(run, agent=agents[run.name]) for run in found]


def differing(runs: Sequence[Run]) -> set[str]:
    """The settings, by dotted key, in which some runs differ."""
    flat = [dict(_leaves(run.config)) for run in runs]
    return {key for key in set[str]().union(*flat) if len({each.get(key) for each in flat}) > 1}


def _leaves(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a configuration by dotted key, without those that a sweep over seeds changes."""
    for key, value in node.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif name not in SEEDS and not name.startswith("tracking."):
            yield name, str(value)


def read(path: Path, name: str) -> list[Run]:
    """The searches of one committed record."""
    return list(of_record(name, read_committed(path)))


def of_record(name: str, content: Mapping[str, Any], folder: Path | None = None) -> Iterator[Run]:
    """The run in a record, or all searches in a record of `experiments.policies`."""
    config = content["config"]
    if {"agent", "protocol", "model", "data"} <= config.keys():
        yield _search(name, content, folder)
    elif {"contenders", "resource", "model", "recipe"} <= config.keys():
        for row in content["rows"]:
            yield _row(name, content, row)
    elif {"density", "sharing"} <= config.keys():
        yield _packed(name, content, folder)


def improvements(rewards: Iterable[float]) -> tuple[tuple[int, float], ...]:
    """The evaluation, from 1, and the reward of each improvement over all before."""
    found = list[tuple[int, float]]()
    for at, reward in enumerate(rewards, 1):
        if not found or reward > found[-1][1]:
            found.append((at, reward))
    return tuple(found)


def _search(name: str, content: Mapping[str, Any], folder: Path | None) -> Run:
    config, results, best = content["config"], content["results"], content["best"] or {}
    rewards = content.get("rewards") or [row["reward"] for row in content.get("rows", []) if "reward" in row]
    table = table_of(results)
    tuned = config["deliver"] and (not table or after_tuning(FOUND) in table)
    before = {"selection": best["selection"]["top1"]} if "selection" in best else {}
    groups, counts = results.get("groups", []), best.get("counts", [])
    shares = {key: best[key] for key in ("macs_share", "params_share") if key in best}
    return Run(
        agent=content.get("agent") or _agent(content),
        resource=config["protocol"]["resource"],
        target=config["protocol"]["target"],
        seed=config["seed"],
        evaluations=len(rewards),
        curve=improvements(rewards),
        plan=_kept(groups, counts),
        before=_accuracies(table.get(FOUND)) or before,
        after=_accuracies(table.get(after_tuning(FOUND))),
        dense=_accuracies(table.get(DENSE)),
        costs=shares | _costs(table.get(after_tuning(FOUND)) or table.get(FOUND), table.get(DENSE)),
        epochs=config["finetune"]["epochs"] if tuned else None,
        seconds=content["seconds"].get("search"),
        **_of_folder(name, content, folder),
    )


def _of_folder(name: str, content: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The fields that a run has from its record, whatever it ran."""
    config = content["config"]
    return {
        "name": name, "status": content.get("status", "finished"), "model": _network(config["model"]),
        "data": config["data"]["name"], "commit": content["commit"], "command": _command(content),
        "experiment": content.get("run", {}).get("choices", {}).get("experiment") or "", "config": config,
        "weights": content["results"].get("weights", ""), "folder": folder,
    }  # fmt: skip


def _row(name: str, content: Mapping[str, Any], row: Mapping[str, Any]) -> Run:
    """The run in a row of `experiments.policies`."""
    config, groups = content["config"], content["results"].get("groups", [])
    rule = is_rule(config["contenders"][row["policy"]]["agent"]["_target_"])
    return Run(
        name=f"{name}-{row['policy']}-{100 * row['target']:g}-{row['seed']}",
        status="finished",
        model=_network(config["model"]),
        data=config["data"]["name"],
        agent=row["policy"],
        resource=config["resource"],
        target=row["target"],
        seed=row["seed"],
        evaluations=row.get("evaluations", 1 if rule else config["episodes"]),
        curve=tuple((at, reward) for at, reward in row.get("curve", ())),
        plan=_kept(groups, row["counts"]),
        before=row["before"],
        after=row["after"],
        dense=content["results"].get("dense", {}),
        costs={key: row[key] for key in ("macs_share", "params_share")},
        epochs=config["recipe"]["epochs"],
        seconds=row["curve_seconds"][-1] if "curve_seconds" in row else None,
        commit=(content.get("commits") or {}).get(row["policy"], content["commit"]),
        command=_command({"run": {"job": "experiments.policies", **content.get("run", {})}}),
        config={key: value for key, value in config.items() if key != "contenders"}
        | config["contenders"][row["policy"]],
        weights=content["results"].get("weights", ""),
    )


def _packed(name: str, content: Mapping[str, Any], folder: Path | None) -> Run:
    """A run of `experiments.deep_compress`; its agent is the command."""
    config, results = content["config"], content["results"]
    accuracy, layers = results.get("accuracy", {}), results.get("layers")
    return Run(
        agent="deep_compress",
        resource="weights",
        target=_density(layers) if layers else config["density"],
        seed=config["recipe"]["seed"],
        evaluations=0,
        before=accuracy.get("pruned, not retrained", {}),
        after=accuracy.get("file", {}),
        dense=accuracy.get("dense", {}),
        costs={"bytes": results["bytes"], "dense_bytes": sum(one["dense_bytes"] for one in layers)}
        if layers
        else {},
        epochs=config["rounds"] * config["recipe"]["epochs"] + config["sharing"]["epochs"],
        seconds=sum(content["seconds"].values()),
        **_of_folder(name, content, folder),
    )


def _density(layers: Sequence[Mapping[str, Any]]) -> float:
    """The fraction of all numbers that a file keeps, to a hundredth, so that seeds share it."""
    kept, numbers = (sum(one[key] for one in layers) for key in ("kept", "numbers"))
    return float(round(kept / numbers, 2))


def _network(model: Mapping[str, Any]) -> str:
    """The name of a network; one of the user's own is named after the function that builds it."""
    return str((model.get("options") or {}).get("target", model["name"]))


def _kept(groups: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> tuple[Kept, ...]:
    pairs = zip(groups, counts, strict=False)
    return tuple(Kept(one["layer"], one["size"], count, one.get("weights", 0)) for one, count in pairs)


def _agent(content: Mapping[str, Any]) -> str:
    """The agent's name in ``conf/agent`` with settings from the command line, else the name of its class."""
    asked = content.get("run", {})
    name = asked.get("choices", {}).get("agent")
    if name is None:
        return str(content["config"]["agent"]["_target_"]).rpartition(".")[2]
    changed = [word for word in asked.get("overrides", []) if word.startswith("agent.")]
    return " ".join([name, *(word.removeprefix("agent.") for word in changed)])


def _command(content: Mapping[str, Any]) -> str:
    asked = content.get("run", {})
    words = [word for word in asked.get("overrides", []) if not word.startswith(PRIVATE)]
    return " ".join([f"python -m {asked.get('job', 'experiments.search')}", *words])


def _accuracies(row: Mapping[str, Any] | None) -> dict[str, float]:
    return {} if row is None else {split: row[split] for split in SPLITS}


def _costs(row: Mapping[str, Any] | None, dense: Mapping[str, Any] | None) -> dict[str, float]:
    """Costs of a network and ``dense_ms`` beside ``ms``; ``ms torch 64`` names runtime and batch."""
    if row is None or dense is None:
        return {}
    timed = {
        f"{name} {runtime} {one['batch']}": one["median_ms"]
        for name, costs in (("ms", row), ("dense_ms", dense))
        for runtime, every in costs["latency_ms"].items()
        for one in every
    }
    for name in ("ms", "dense_ms"):
        if f"{name} {RUNTIME} {BATCH}" in timed:
            timed[name] = timed[f"{name} {RUNTIME} {BATCH}"]
    return {"macs": row["macs"], "params": row["params"], "bytes": row["file_bytes"]} | timed
