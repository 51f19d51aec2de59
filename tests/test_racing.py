"""Networks of searches, timed in turn and compared with their promised times."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from latency_tables import Calm, falling

from amc_env import latency, zoo
from amc_env.graph.trace import trace
from experiments.delivery import racing
from experiments.recording.committed import read_committed, row_a_line
from experiments.recording.record import RecordError, RunRecord

WORDS = ("model=digits_cnn", "data=digits")


@pytest.fixture
def graph():
    return trace(zoo.build("digits_cnn", classes=10, in_channels=1).eval(), (1, 8, 8))


@pytest.fixture
def table(graph, tmp_path: Path) -> Path:
    latency.save(falling(graph, runtime="onnxruntime"), tmp_path / "table.json")
    return tmp_path / "table.json"


def run(
    folder: Path,
    graph,
    *,
    seed: int = 0,
    tuned: bool = True,
    counts: int = 0,
    found: str = "found",
    **config: Any,
) -> Path:
    """A record as a search leaves it."""
    sizes = [len(group) for group in graph.groups]
    row: dict[str, Any] = {"selection": 0.8, "test": 0.7}
    rows = {
        "dense": row | {"counts": sizes},
        "uniform": row | {"counts": [size // 2 for size in sizes]},
        found: row | {"counts": [size // 2 + counts for size in sizes]},
    }
    if tuned:
        rows |= {f"{name}, tuned": rows[name] | {"test": 0.9} for name in ("uniform", found)}
    config = {"protocol": {"resource": "latency", "target": 0.5}, "seed": seed} | config
    record = RunRecord.create(folder, config, seeds={"search": seed})
    record.content["run"]["choices"] = {"agent": "gp"}
    record.update(results={"table": rows})
    return folder


def test_each_network_is_measured_once_and_keeps_its_accuracy(
    graph, table: Path, tmp_path: Path, composed, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(racing, "Monitor", Calm)
    runs = [run(tmp_path / "a", graph, counts=1), run(tmp_path / "b", graph, seed=1)]
    made = []
    real = racing.Bench.whole
    monkeypatch.setattr(racing.Bench, "whole", lambda self, counts: made.append(counts) or real(self, counts))
    result = tmp_path / "result.json"
    both = f"runs=[{runs[0]},{runs[1]}]"
    racing.main(
        composed("latency", f"table={table}", both, f"result={result}", "batches=[2]", *WORDS)
    )  # fmt: skip
    assert len(set(made)) == 3  # dense, halves, and one channel more
    assert len(made) == 3 * 3  # by the table's conditions, and 2 images in either runtime
    rows = read_committed(result)["rows"]
    assert [(row["policy"], row["seed"], row["tuned"], row["test"]) for row in rows] == [
        ("dense", 0, False, 0.7), ("uniform", 0, True, 0.9), ("gp", 0, True, 0.9),
        ("uniform", 1, True, 0.9), ("gp", 1, True, 0.9),
    ]  # fmt: skip
    prices = latency.read(table).prices()
    for row in rows:
        assert row["promised_ms"] == int(prices(row["counts"])) / 1e6
        assert row["measured_ms"] == sorted(row["repeats_ms"])[2]
    assert rows[1]["measured_ms"] == rows[4]["measured_ms"]
    assert all(row["ms"].keys() == {"onnx 2", "torch 2"} and min(row["ms"].values()) > 0 for row in rows)
    half, more = (rows[at]["bytes"] for at in (1, 2))
    assert rows[0]["bytes"] > more > half
    assert "50 % latency" in capsys.readouterr().out


def test_a_run_without_networks_and_one_of_another_network(graph, tmp_path: Path) -> None:
    folder = run(tmp_path / "a", graph)
    record = RunRecord.read(folder)
    record.content["results"]["table"]["dense"]["counts"] = [3]
    record.update()
    with pytest.raises(RecordError, match="is of another network than the table"):
        racing.entries_of(folder, graph)
    del record.content["results"]["table"]
    record.update()
    with pytest.raises(RecordError, match="has no delivered networks: let it end"):
        racing.entries_of(folder, graph)


def test_what_is_not_tuned_counts_as_it_is(graph, tmp_path: Path) -> None:
    entries = racing.entries_of(run(tmp_path / "a", graph, tuned=False), graph)
    assert [(entry.policy, entry.resource, entry.tuned, entry.test) for entry in entries] == [
        ("dense", "", False, 0.7), ("uniform", "latency", False, 0.7), ("gp", "latency", False, 0.7),
    ]  # fmt: skip


def test_a_metric_of_ones_own_is_no_percentage_and_budgets_are_not_rounded(
    graph, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    entries = [
        *racing.entries_of(run(tmp_path / "a", graph, metric="mine:error"), graph),
        *racing.entries_of(run(tmp_path / "b", graph), graph),
    ]
    assert [entry.measure for entry in entries] == ["metric"] * 3 + ["accuracy"] * 3
    times = {"promised_ms": 1.0, "measured_ms": 12345.678}
    targets = (1.0, 0.333, 0.33, 1.0, 0.005, 0.5)
    racing.show(
        asdict(entry) | times | {"target": target, "test": 18.25 if entry.measure == "metric" else 0.9}
        for entry, target in zip(entries, targets, strict=True)
    )
    head, _, *lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert head.endswith("test metric or accuracy")
    shown = [(line.split("%")[0].split()[-1], line.split()[-1]) for line in lines]
    assert shown == [
        ("100", "18.25"), ("33.3", "18.25"), ("33", "18.25"),
        ("100", "90.00%"), ("0.5", "90.00%"), ("50", "90.00%"),
    ]  # fmt: skip
    assert all("12345.678" in line for line in lines)  # in a terminal of 40 characters, too


def test_the_network_that_older_records_call_amc_is_the_found_one(graph, tmp_path: Path) -> None:
    older = racing.entries_of(run(tmp_path / "older", graph, counts=1, found="AMC"), graph)
    assert older == racing.entries_of(run(tmp_path / "newer", graph, counts=1), graph)


@pytest.mark.parametrize("tuned", [True, False])
def test_a_comparison_gives_each_of_its_networks(tuned: bool, graph, tmp_path: Path) -> None:
    sizes = [len(group) for group in graph.groups]
    config: dict[str, Any] = {"contenders": {"gp": {}}, "resource": "latency"}
    key, value = "agreement", {"selection": 0.8, "test": 0.7}
    if tuned:
        config["recipe"], key = {"epochs": 2}, "after"
    record = RunRecord.create(tmp_path / "a", config, seeds={"first": 0})
    dense = {"selection": 0.9, "test": 0.95, "missed": []}
    record.update(results={"groups": [{"size": size} for size in sizes], "dense": dense})
    record.add(policy="gp", target=0.5, seed=2, counts=[size // 2 for size in sizes], **{key: value})
    record.add(policy="torch_pruning", target=0.5, seed=0, **{key: value})
    first, second = racing.entries_of(tmp_path / "a", graph)
    kept = record.content | {"rows": record.rows}
    (tmp_path / "kept.json").write_text(row_a_line(kept, "kept"))
    assert racing.entries_of(tmp_path / "kept.json", graph) == [first, second]
    assert (first.policy, first.counts, first.test) == ("dense", tuple(sizes), 0.95 if tuned else 1.0)
    assert (second.policy, second.resource, second.target, second.seed) == ("gp", "latency", 0.5, 2)
    assert (second.test, second.tuned, second.measure) == (0.7, tuned, "accuracy" if tuned else "agreement")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, composed):
    (tmp_path / "file").write_text("")
    asked = ["model=lenet5", "table=t.json", "runs=[r]", f"result={tmp_path}/file/out.json"]
    with pytest.raises(RecordError, match="choose another result=FILE"):
        racing.main(composed("latency", *asked))


def test_a_file_of_something_else_is_not_replaced(tmp_path):
    racing.refuse_others(tmp_path / "none.json")
    for content in ("my notes", '{"conditions": {}}'):  # the second is damaged: it has no digest
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(RecordError, match=r"mine\.json holds no measured networks and would be replaced"):
            racing.refuse_others(tmp_path / "mine.json")
    (tmp_path / "race.json").write_text(row_a_line({"conditions": {}, "rows": []}, "race"))
    racing.refuse_others(tmp_path / "race.json")
