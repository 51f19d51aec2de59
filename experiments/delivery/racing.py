"""Times whole networks of searches in turn with the uniform policy's and the dense one.

``python -m experiments.latency table=FILE runs=[runs/A,runs/B] result=FILE model=... data=...``; a run is
one of `experiments.search`, `experiments.policies` or `experiments.photos`. Weights are not needed, because
the time of a network depends only on its widths.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.table import Table
from torch import nn

from amc_env import files
from amc_env.conditions import Conditions, LatencyError
from amc_env.graph.structure import Graph
from amc_env.graph.trace import trace
from amc_env.latency import LatencyTable, table_for
from experiments.cli.trained import network_of, shape_of
from experiments.delivery.bench import Bench, small
from experiments.delivery.monitoring import Monitor
from experiments.delivery.promise import measured, promises, undisturbed
from experiments.delivery.table import show_whole
from experiments.recording.committed import read_committed, row_a_line
from experiments.recording.lock import alone
from experiments.recording.networks import DENSE, FOUND, UNIFORM, after_tuning, table_of
from experiments.recording.provenance import commit, versions
from experiments.recording.record import RecordError, RunRecord

METRIC = "metric"  # of the user's own, whatever its unit
REPEATS, TURNS = 3, 2  # beside the table's conditions, where a pass may have many images
SIDES = {"onnxruntime": "onnx", "torch": "torch"}  # runtimes beside the table's, and how tables call them


@dataclass(frozen=True)
class Entry:
    """A network of a search's final table.

    Attributes:
        policy: "dense", "uniform", or the name of the agent that found it.
        resource: what its budget limits; "" for the dense network.
        target: fraction of the dense network's cost that may be spent.
        seed: of the search.
        counts: of channels in each group.
        selection: ``measure`` on that split, after fine-tuning if there was any; in [0, 1] but for `METRIC`.
        test: likewise.
        tuned: whether it was fine-tuned.
        measure: "accuracy"; "agreement" with the dense network, in a comparison without labels; or `METRIC`.
    """

    policy: str
    resource: str
    target: float
    seed: int
    counts: tuple[int, ...]
    selection: float
    test: float
    tuned: bool
    measure: str = "accuracy"


def main(cfg: DictConfig) -> None:
    """Measure the networks, write the record, and print a row for each."""
    path = Path(cfg.result)
    refuse_others(path)
    with alone(path.parent, otherwise="choose another result=FILE", name=path.name):
        _race(cfg, path)


def _race(cfg: DictConfig, path: Path) -> None:
    shape, classes = shape_of(cfg)
    model = network_of(cfg, shape, classes).eval()
    graph = trace(model, shape, keep_whole=cfg.keep_whole)
    table = table_for(graph, cfg.table, force=cfg.force)
    entries = [entry for run in cfg.runs for entry in entries_of(Path(run), graph)]
    entries = list(dict.fromkeys(entries))
    had = table.conditions
    bench = Bench(model, graph, runtime=had.runtime, device=had.device, threads=had.threads, batch=had.batch)
    try:
        rows = measure(bench, table, entries)
    finally:
        bench.close()
    beside = sides(model, graph, had, cfg.batches, [row["counts"] for row in rows])
    rows = [row | beside[tuple(row["counts"])] for row in rows]
    content = {
        "format": 1, "commit": commit(), "versions": versions(), "conditions": asdict(had),
        "table": Path(cfg.table).name, "network": table.name, "rows": rows,
    }  # fmt: skip
    files.write(path, row_a_line(content, path.stem))
    show(rows)
    print(f"written: {path}")


def refuse_others(path: Path) -> None:
    """Raise a `RecordError` for a file that exists and holds no measured networks."""
    if not path.exists():
        return
    try:
        measured_before = "conditions" in files.read_json(path, path.stem)
    except files.DamagedError:
        measured_before = False
    if not measured_before:
        raise RecordError(
            f"{path} holds no measured networks and would be replaced: give another result=FILE"
        )


def entries_of(run: Path, graph: Graph) -> list[Entry]:
    """The networks that a run found, and the dense one.

    Args:
        run: folder of a run, or the file of a comparison that is kept among the results.
        graph: of the dense network.

    Raises:
        RecordError: for a run that delivered none, or one of another network.
    """
    if run.is_file():
        content = read_committed(run)
        rows = content.get("rows", [])
    else:
        record = RunRecord.read(run)
        content, rows = record.content, record.rows
    compared = "contenders" in content["config"]
    found = content["results"].get("groups" if compared else "table")
    if found is None or not (compared or "counts" in found[DENSE]):
        raise RecordError(f"{run} has no delivered networks: let it end, a search with deliver=true")
    sizes = [group["size"] for group in found] if compared else found[DENSE]["counts"]
    if sizes != [len(group) for group in graph.groups]:
        raise RecordError(f"{run} is of another network than the table: its channel groups have other sizes")
    return _compared(content, rows, sizes) if compared else _searched(content)


def _compared(
    content: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], sizes: Iterable[int]
) -> list[Entry]:
    """Entries of a comparison of agents; one-shot methods have no counts of channels."""
    config, dense = content["config"], content["results"][DENSE]
    tuned = "recipe" in config
    measure, key = ("accuracy", "after") if tuned else ("agreement", "agreement")
    found = {split: dense[split] if tuned else 1.0 for split in ("selection", "test")}
    return [
        Entry(DENSE, "", 1.0, 0, tuple(sizes), **found, tuned=False, measure=measure),
        *(
            Entry(
                row["policy"], config["resource"], row["target"], row["seed"], tuple(row["counts"]),
                **row[key], tuned=tuned, measure=measure,
            )
            for row in rows
            if "counts" in row
        ),
    ]  # fmt: skip


def _searched(content: Mapping[str, Any]) -> list[Entry]:
    """Entries in the final table of a search."""
    found = table_of(content["results"])
    config, agent = content["config"], (content["run"].get("choices") or {}).get("agent", FOUND)
    protocol = config["protocol"]
    entries = []
    for name, policy in ((DENSE, DENSE), (UNIFORM, UNIFORM), (FOUND, agent)):
        tuned = after_tuning(name) in found
        row = found[after_tuning(name) if tuned else name]
        searched = name != DENSE
        entries.append(
            Entry(
                policy=policy,
                resource=protocol["resource"] if searched else "",
                target=protocol["target"] if searched else 1.0,
                seed=config["seed"] if searched else 0,
                counts=tuple(row["counts"]),
                selection=row["selection"],
                test=row["test"],
                tuned=tuned,
                measure=METRIC if config.get("metric") else "accuracy",
            )
        )
    return entries


def measure(bench: Bench, table: LatencyTable, entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """A row an entry with promised and measured times; equal networks run once.

    Raises:
        LatencyError: if there is nothing to measure.
    """
    entries = list(entries)
    if not entries:
        raise LatencyError("no networks to measure: give runs=[FOLDER,...]")
    names = {entry.counts: str(entry.counts) for entry in entries}
    probes = {name: bench.whole(counts) for counts, name in names.items()}
    taken = undisturbed(probes, Monitor())
    kept = promises(table, {name: counts for counts, name in names.items()}, taken)
    return [asdict(entry) | asdict(kept[names[entry.counts]]) for entry in entries]


def sides(
    model: nn.Module,
    graph: Graph,
    had: Conditions,
    batches: Iterable[int],
    counts: Iterable[Sequence[int]],
) -> dict[tuple[int, ...], dict[str, Any]]:
    """Time networks in every runtime and batch, all in turn, and weigh them.

    Args:
        model: the dense network.
        graph: of it.
        had: conditions of the table; on a graphics card PyTorch alone is timed.
        batches: images in a pass.
        counts: of kept channels, a network each; equal ones are timed once.

    Returns:
        For each network ``ms``, medians by "onnx 64", "torch 1" and so on, and ``bytes`` of its tensors.
    """
    networks = {tuple(each): small(model, graph, each) for each in counts}
    times: dict[tuple[int, ...], dict[str, float]] = {each: {} for each in networks}
    for runtime, batch in product(SIDES if had.device == "cpu" else ("torch",), batches):
        bench = Bench(model, graph, runtime=runtime, device=had.device, threads=had.threads, batch=batch)
        try:
            probes = {str(each): bench.whole(each) for each in networks}
            taken = measured(probes, repeats=REPEATS, turns=TURNS)
        finally:
            bench.close()
        for each, own in times.items():
            own[f"{SIDES[runtime]} {batch}"] = statistics.median(taken[str(each)])
    return {
        each: {
            "ms": times[each],
            "bytes": sum(value.numel() * value.element_size() for value in network.state_dict().values()),
        }
        for each, network in networks.items()
    }


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print each network's promised and measured time as a fraction of the dense network's."""
    rows = list(rows)
    dense = next(row for row in rows if row["policy"] == DENSE)
    measures = " or ".join(dict.fromkeys(row["measure"] for row in rows))
    head = ("policy", "budget", "seed", "promised", "measured", "ms", f"test {measures}")
    table = Table(*head, box=box.SIMPLE_HEAD)
    for row in rows:
        test = f"{row['test']:.4g}" if row["measure"] == METRIC else f"{row['test']:.2%}"
        table.add_row(
            row["policy"], f"{100 * row['target']:g} % {row['resource']}", str(row["seed"]),
            f"{row['promised_ms'] / dense['promised_ms']:.1%}",
            f"{row['measured_ms'] / dense['measured_ms']:.1%}",
            f"{row['measured_ms']:.3f}", test,
        )  # fmt: skip
    show_whole(table)
