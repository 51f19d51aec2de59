"""Files that later steps rely on, each with a twin of another run and how the product reads it."""

import hashlib
import json
import os
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import safetensors.numpy
import torch
from test_data import TINY, tiny
from test_reconstruct import pictures

from agents import critic
from agents.pretrained import SHIPPED
from amc_env import checkpoints, files, latency, packing, tabular, tensor_files
from amc_env import zoo as nets
from amc_env.card import Card
from amc_env.compressors.channels import magnitude_orders
from amc_env.data.splits import read_raw
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair.moments import collect_cached
from experiments.analysis import runs
from experiments.delivery import sums, tabulating
from experiments.recording import plans, state
from experiments.recording.committed import read_committed, row_a_line
from experiments.recording.record import RECORD, ROWS, RunRecord
from experiments.training.loop import read_history

CARD = Card(
    architecture="digits_cnn", classes=10, in_channels=1, data="digits", shape=(1, 8, 8), seed=3,
    commit="abc", recipe={"epochs": 2, "lr": 0.1}, accuracy={"selection": 0.5}, note="fuzzed",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A file, a twin of it from another run, and how it is read.

    Attributes:
        path: of the file.
        twin: the bytes of the same file of another run, or another file of its kind.
        read: reads it by what the product reads it with; gives something that can be compared.
        also: further values that reading may give: the state before, a run killed earlier, another whole
            file.
    """

    path: Path
    twin: bytes
    read: Callable[[], Any]
    also: tuple[Any, ...] = ()


class Counted:
    """An agent that remembers a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "weights": torch.arange(20.0)}


def comparable(value: Any) -> Any:
    """Tensors and arrays as bytes, all the rest as it is."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {key: comparable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(inner) for inner in value]
    return value


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file, made in a folder."""
    return {
        **_of_runs(folder / "runs"),
        **_of_trainings(folder / "training"),
        **_of_networks(folder / "networks"),
        **_of_tables(folder / "tables"),
        **_of_caches(folder / "caches"),
        **_of_times(folder / "times"),
        **_of_critics(folder / "critics"),
        **_of_dashboards(folder / "dashboards"),
    }


def _record(folder: Path, seed: int, *, finished: bool = True) -> RunRecord:
    record = RunRecord.create(folder, {"seed": seed, "agent": {"sigma": 0.5}}, seeds={"search": seed})
    for episode in range(12):
        row = {"episode": episode, "reward": -0.3 + episode / 64, "counts": [8, 16, seed], "top1": 0.7}
        record.add(**row, macs_share=0.5, kept=[0.25, 0.5])
        if episode in (3, 9):
            state.save(record, Counted(100 * seed + episode))
    plan = Plan("0123456789abcdef", ((0, 1, 2), None, (4, 7 + seed)))
    plan.write(folder / plans.PLAN)
    best = {"episode": 11, "reward": -0.1, "plan": plan.to_dict(), "selection": {"top1": 0.93}}
    record.update(best=best, results={"selection": 0.93})
    if finished:
        record.finish()
    return record


def _of_runs(folder: Path) -> dict[str, Kind]:
    ended, other = folder / "ended", folder / "other"
    _record(ended, 1)
    _record(other, 2)
    running = _record(folder / "running", 1, finished=False).folder
    content = json.loads((running / RECORD).read_text())
    content["run"]["rows"] = 4  # as it is written before more rows come
    (running / RECORD).write_text(json.dumps(files.seal(content)))
    mine, theirs = folder / "mine.plan", folder / "theirs.plan"  # files that stand alone
    for path, kept in ((mine, 7), (theirs, 6)):
        Plan("0123456789abcdef", ((0, 1, 2), None, (4, kept))).write(path)
    result = folder / "results" / "ddpg.json"
    files.write(result, row_a_line({"rows": [{"top1": 0.9}, {"top1": 0.8}], "seeds": {"first": 0}}, "ddpg"))
    another = row_a_line({"rows": [{"top1": 0.1}, {"top1": 0.2}], "seeds": {"first": 0}}, "cmaes")

    def read(folder: Path) -> Any:
        record = RunRecord.read(folder)
        return record.content, record.rows

    def saved() -> Any:
        found = state.load(RunRecord.read(ended), 4)
        return found and (found.episodes, comparable(found.agent))

    first, rows = read(running)
    before = tuple((first, rows[:count]) for count in range(4, len(rows)))
    searched = saved()
    earlier = (4, comparable(Counted(103).state_dict()))
    return {
        "record.json": Kind(ended / RECORD, (other / RECORD).read_bytes(), lambda: read(ended)),
        "record.jsonl": Kind(ended / ROWS, (other / ROWS).read_bytes(), lambda: read(ended)),
        "record.jsonl of a running search": Kind(
            running / ROWS, (other / ROWS).read_bytes(), lambda: read(running), before
        ),
        "plan.json": Kind(ended / plans.PLAN, (other / plans.PLAN).read_bytes(), lambda: plans.of_run(ended)),
        "plan of one's own": Kind(mine, theirs.read_bytes(), lambda: Plan.read(mine), (Plan.read(theirs),)),
        "search.state": Kind(
            ended / state.STATE, (other / state.STATE).read_bytes(), saved, (searched, earlier)
        ),
        "committed result": Kind(result, another.encode(), lambda: read_committed(result)),
    }


def _of_trainings(folder: Path) -> dict[str, Kind]:
    path, other = folder / "finetune.state", folder / "finetune-uniform.state"
    folder.mkdir(parents=True)
    for where, of in ((other, "run/uniform"), (path, "run/found")):
        for epochs in (1, 2):
            history = [{"epoch": at, "loss": 0.5, "selection": 0.9} for at in range(epochs)]
            state.write(where, {"of": of, "history": history, "model": {"weight": torch.arange(30.0)}})

    def read() -> Any:
        return read_history(path, "run/found")

    return {"training state": Kind(path, other.read_bytes(), read, (read()[:1],))}


def _of_networks(folder: Path) -> dict[str, Kind]:
    network, other = (nets.build("digits_cnn", classes=10, in_channels=1, seed=seed) for seed in (1, 2))
    stem, twin = folder / "mine", folder / "other"
    checkpoints.save(stem, network, CARD)
    checkpoints.save(twin, other, replace(CARD, note="another"))
    exported, foreign = folder / "mine.onnx", folder / "other.onnx"
    for seed, path in enumerate((exported, foreign)):  # whose bytes no reader sees before their digest
        path.write_bytes(b"\x08\x0a\x12\x07" + random.Random(seed).randbytes(3000))
    beside = sums.write(stem, [exported])
    packed = folder / f"mine{packing.SUFFIX}"
    packing.write(packed, network.state_dict(), CARD)
    another = packing.write(folder / f"other{packing.SUFFIX}", other.state_dict(), CARD)
    weights_file, card_file = checkpoints.files(stem)
    other_weights, other_card = checkpoints.files(twin)

    def read() -> Any:
        model, card = checkpoints.load(stem)
        return card, comparable(model.state_dict())

    def unpacked() -> Any:
        model, card = packing.read(packed)
        return card, comparable(model.state_dict())

    def onnx() -> Any:
        sums.check(exported, trust=False)
        return exported.read_bytes()

    alone = (CARD, comparable(other.state_dict()))  # a file that stands alone may be another whole one
    return {
        "card of a checkpoint": Kind(card_file, other_card.read_bytes(), read),
        "weights of a checkpoint": Kind(weights_file, other_weights.read_bytes(), read),
        ".onnx": Kind(exported, foreign.read_bytes(), onnx),
        ".sha256": Kind(beside, sums.write(twin, [foreign]).read_bytes(), onnx),
        ".packed": Kind(packed, another, unpacked, (alone,)),
    }


def _of_tables(folder: Path) -> dict[str, Kind]:
    graph = trace(nets.build("digits_cnn", classes=10, in_channels=1), (1, 8, 8))
    model = nets.build("digits_cnn", classes=10, in_channels=1)
    rng = np.random.default_rng(0)
    levels = tabular.Levels(graph, magnitude_orders(model, graph))
    for name in ("mine", "other"):
        columns = {key: rng.integers(0, 700, (8,) * 5).astype(np.uint16) for key in tabular.COUNTED}
        columns |= {key: rng.random((8,) * 5).astype(np.float32) for key in tabular.REAL}
        columns |= {key: rng.integers(1, 9999, (8,) * 5) for key in ("macs", "params")}
        card = replace(tabular.load("digits").card, graph=graph.hash, seed=len(name))
        tabular.save(name, tabular.Table(card, levels, columns), folder)

    def read() -> Any:
        table = tabular.load("mine", folder)
        return table.card, comparable(table.columns), comparable(table.compressor.orders)

    return {
        "card of a table": Kind(folder / "mine.json", (folder / "other.json").read_bytes(), read),
        "table": Kind(folder / "mine.npz", (folder / "other.npz").read_bytes(), read),
    }


def _of_caches(folder: Path) -> dict[str, Kind]:
    os.environ["AMC_CACHE"] = str(folder)
    tensor_files.write(folder / "tiny.safetensors", tiny(), copy="mine")
    tensor_files.write(folder / "other.safetensors", tiny(), copy="mine")
    model = networks.ready(networks.chain())
    graph, data = trace(model, networks.PAIR), pictures()

    def collected() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = collect_cached(model, graph, data, images=40, points=1, seed=0)
        return comparable([found.grams, found.rows, found.counts])

    collected()
    (path,) = (folder / "moments").iterdir()
    collect_cached(model, graph, data, images=40, points=1, seed=1)
    (other,) = {*(folder / "moments").iterdir()} - {path}
    return {
        "data set": Kind(
            folder / "tiny.safetensors", (folder / "other.safetensors").read_bytes(),
            lambda: comparable(read_raw(TINY, folder)),
        ),
        "moments cache": Kind(path, other.read_bytes(), collected),
    }  # fmt: skip


def _of_times(folder: Path) -> dict[str, Kind]:
    graph = trace(nets.build("digits_cnn", classes=10, in_channels=1), (1, 8, 8))
    here = latency.Conditions.here(graph, runtime="torch", threads=1, batch=1)
    counts = [[len(group)] for group in graph.groups]
    fit = latency.Fit(1.0, 1.0, 0.0, ())
    for name in ("mine", "other"):
        layers = [latency.LayerTimes(f"g{at}", (at,), [100 * len(name)]) for at in range(len(counts))]
        table = latency.LatencyTable("digits_cnn", here, 1, counts, layers, 1000, fit, 1.0, "today")
        latency.save(table, folder / f"{name}.json")
        rows = [{"kind": "layers", "counts": [at], "times": {"whole": [9 * at, 1]}} for at in range(9)]
        head = {"conditions": asdict(here), "counts": [[len(name)]]}
        tabulating.begin(folder / name / "table.json.part", [head, *rows])
    path, other = folder / "mine.json", folder / "other.json"
    part, another = (folder / name / "table.json.part" for name in ("mine", "other"))

    def begun() -> Any:
        return tabulating.resumed(part, here, [[4]], force=False)

    rows = begun()
    fewer = tuple({key: rows[key] for key in list(rows)[:count]} for count in range(len(rows)))
    return {
        "latency table": Kind(
            path, other.read_bytes(), lambda: latency.read(path), (latency.read(other),)
        ),
        "latency table being measured": Kind(part, another.read_bytes(), begun, fewer),
    }  # fmt: skip


def _of_critics(folder: Path) -> dict[str, Kind]:
    folder.mkdir(parents=True)
    path, other = folder / "mine.safetensors", folder / "other.safetensors"
    shipped = safetensors.numpy.load_file(SHIPPED)
    for at, changed in ((path, 1.0), (other, 2.0)):
        tensors = {name: np.float32(changed) * value for name, value in shipped.items()}
        at.write_bytes(safetensors.numpy.save(tensors))
        card = json.loads(SHIPPED.with_suffix(".json").read_text())
        card |= {"sha256": hashlib.sha256(at.read_bytes()).hexdigest()}
        at.with_suffix(".json").write_text(json.dumps(card))

    def read() -> Any:
        return comparable([each.parameters for each in critic.read(path).critics])

    return {
        "critic": Kind(path, other.read_bytes(), read),
        "card of a critic": Kind(
            path.with_suffix(".json"), other.with_suffix(".json").read_bytes(), read
        ),
    }  # fmt: skip


def _of_dashboards(folder: Path) -> dict[str, Kind]:
    config = {
        "agent": {"_target_": "agents.rules.Rule"}, "protocol": {"resource": "macs", "target": 0.5},
        "model": {"name": "plain20"}, "data": {"name": "digits"}, "deliver": False,
        "finetune": {"epochs": 0},
    }  # fmt: skip
    for at, seed in (("one", 0), ("two", 1), ("elsewhere", 2)):
        run = RunRecord.create(
            folder / ("other" if seed == 2 else "runs") / at, {**config, "seed": seed}, seeds={"search": seed}
        )
        run.add(episode=0, reward=-0.5 - seed, episode_seconds=0.1)
        run.finish()
    path = folder / "runs" / "one" / RECORD

    def shown() -> Any:
        return runs.load(folder / "runs")[0]

    found = shown()
    return {
        "record in a report": Kind(
            path, (folder / "other" / "elsewhere" / RECORD).read_bytes(), shown, (found[1:],)
        )
    }  # fmt: skip
