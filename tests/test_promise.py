"""Promised times beside measured ones, and searches with a budget of measured time."""

import json
from pathlib import Path

import pytest
from clockless import without_clock
from latency_tables import falling

from amc_env import latency, zoo
from amc_env.conditions import LatencyError
from amc_env.graph.trace import trace
from experiments.delivery.probes import Pass
from experiments.delivery.promise import measured, promises, undisturbed
from experiments.recording.record import RunRecord
from experiments.searching.search import search

AGENTS = {
    "gp": ["agent=gp"],
    "additive": ["agent=additive"],
    "cmaes": ["agent=cmaes", "agent.population=3"],
}


class Scripted:
    """A probe whose passes take what a list says."""

    resolution = 1

    def __init__(self, log: list[str], name: str, times: list[int]) -> None:
        self.log, self.name, self.times = log, name, times
        self.ran = 0

    def run(self) -> None:
        self.log.append(self.name)
        self.ran += 1

    def passes(self) -> list[Pass]:
        return [Pass((), each) for each in self.times[: self.ran]]


def test_networks_take_turns_and_the_first_pass_of_each_turn_does_not_count() -> None:
    log: list[str] = []
    warm, one, two = [9, 9, 9, 9], [9, 1, 2, 3], [9, 5, 7, 6]
    probes = {"a": Scripted(log, "a", warm + one + two), "b": Scripted(log, "b", warm + two + one)}
    found = measured(probes, repeats=2, turns=1)
    assert found == {"a": [2e-6, 6e-6], "b": [6e-6, 2e-6]}
    assert log == 3 * (4 * ["a"] + 4 * ["b"])


class Calm:
    """A monitor with given answers."""

    def __init__(self, answers: list[bool]) -> None:
        self.answers = iter(answers)

    def settles(self) -> bool:
        return True

    def calm(self) -> bool:
        return next(self.answers)


def test_disturbed_turns_are_taken_again() -> None:
    warm, bad, one, two = [9] * 4, [9, 90, 90, 90], [9, 20, 20, 20], [9, 30, 30, 30]
    probe = Scripted([], "a", warm + bad + one + warm + two)
    found = undisturbed({"a": probe}, Calm([True, False, True, True, True]), repeats=2, turns=1)
    assert found["a"] == pytest.approx([20e-6, 30e-6])  # nanoseconds, rounded
    assert probe.ran == 20
    with pytest.raises(LatencyError, match="too busy to measure"):
        undisturbed({"a": Scripted([], "a", 8 * warm)}, Calm(6 * [False]), repeats=1, turns=1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    graph = trace(zoo.build("digits_cnn", classes=10, in_channels=1).eval(), (1, 8, 8))
    latency.save(falling(graph), tmp_path / "table.json")
    return tmp_path / "table.json"


def test_the_median_of_the_repeats_stands_beside_the_promise(table: Path) -> None:
    made = latency.read(table)
    kept = {"dense": [each[-1] for each in made.counts], "small": [each[0] for each in made.counts]}
    found = promises(made, kept, {"dense": [1.0, 9.0, 2.0], "small": [0.5, 0.6, 0.4]})
    assert found["dense"].measured_ms == 2.0
    assert found["small"].measured_ms == 0.5
    groups = len(made.counts)
    assert found["small"].promised_ms == pytest.approx((1000 + 100 * groups) / 1e6)
    assert found["dense"].promised_ms == pytest.approx(
        (1000 + sum(100 * (each[-1] - 1) - 50 for each in made.counts)) / 1e6
    )


def asked(composed, table: Path, folder: Path, *words: str):
    return composed(
        "config", "experiment=digits", "protocol=latency_50", "protocol.target=0.6",
        f"protocol.latency={table}", "tracking=none", "env.reward_images=20",
        "compressor.repair=none", "compressor.order=magnitude", f"output={folder}", *words,
    )  # fmt: skip


@pytest.mark.slow
def test_the_delivery_tells_what_was_promised_and_what_came(
    composed, table: Path, tmp_path: Path, cache, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "run"
    search(asked(composed, table, folder, "agent=random", "episodes=2", "finetune.epochs=1"), folder)
    results = RunRecord.read(folder).content["results"]
    rows = {name: row["promise"] for name, row in results["table"].items()}
    assert rows["found, tuned"] == rows["found"]
    assert rows["uniform, tuned"] == rows["uniform"]
    for name in ("uniform", "found"):
        assert rows[name]["promised_ms"] <= 0.6 * rows["dense"]["promised_ms"]
    for row in rows.values():
        assert len(row["repeats_ms"]) == 5
        assert row["measured_ms"] == sorted(row["repeats_ms"])[2] > 0
    assert results["latency"]["differences"] == []
    assert results["latency"]["conditions"]["threads"] == 1
    printed = capsys.readouterr().out
    assert "promised, ms" in printed
    assert "measured, ms" in printed


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_search_within_a_budget_of_time(
    agent: str, composed, table: Path, tmp_path: Path, cache
) -> None:
    made = latency.read(table)
    dense = int(made.prices()([each[-1] for each in made.counts]))
    for name in ("one", "two"):
        folder = tmp_path / name
        search(asked(composed, table, folder, *AGENTS[agent], "episodes=12", "deliver=false"), folder)
    rows = RunRecord.read(folder).rows
    costs = made.prices()([row["counts"] for row in rows])
    assert (costs <= 0.6 * dense).all()
    assert [row["latency"] for row in rows] == costs.tolist()
    assert len({tuple(row["counts"]) for row in rows}) > 1
    again = RunRecord.read(tmp_path / "one").rows
    assert json.dumps(without_clock(again)) == json.dumps(without_clock(rows))
