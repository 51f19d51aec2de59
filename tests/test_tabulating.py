"""Measuring a latency table: its plans, resume, and a network whose times are known."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_tables import Calm
from torch import nn

from amc_env import latency, zoo
from amc_env.conditions import Conditions, LatencyError
from amc_env.graph.trace import trace
from amc_env.latency import touched
from experiments.cli import preflight
from experiments.cli.config import ConfigError
from experiments.delivery import tabulating
from experiments.delivery.design import design, prime_from, random_plans, thinned
from experiments.delivery.probes import Pass
from experiments.delivery.tabulating import LAYERS, WHOLE, made, mixed

TIMES = ("seconds", "when", "digest")  # what differs between two equal tables


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6),
)
def test_every_layer_meets_every_pair_of_counts(levels: list[int], pairs: list[tuple[int, int]]) -> None:
    counts = [list(range(1, number + 1)) for number in levels]
    ends = [tuple(sorted({one % len(levels), other % len(levels)})) for one, other in pairs]
    plans = design(ends, counts)
    assert len(set(plans)) == len(plans)
    for groups in ends:
        met = {tuple(plan[group] for group in groups) for plan in plans}
        assert met == set(itertools.product(*(counts[group] for group in groups)))


def test_the_plans_of_two_levels_by_hand() -> None:
    assert design([(0, 1)], [[1, 2], [4, 8]]) == [(1, 4), (1, 8), (2, 8), (2, 4)]
    assert [prime_from(number) for number in (1, 2, 8, 12, 13)] == [2, 2, 11, 13, 13]


def test_many_counts_are_thinned_in_equal_ratios() -> None:
    assert thinned(np.array([2, 4, 8]), 3) == [2, 4, 8]
    assert thinned(np.arange(1, 65), 4) == [1, 4, 16, 64]


def test_random_plans_are_always_the_same_and_of_counts_on_offer() -> None:
    choices = [np.array([2, 4, 8]), np.array([5])]
    plans = random_plans(choices, 20)
    assert plans == random_plans(choices, 20)
    assert {plan[1] for plan in plans} == {5}
    assert {plan[0] for plan in plans} == {2, 4, 8}


def test_whole_networks_come_among_the_layers() -> None:
    kinds = [kind for kind, _ in mixed([(1,), (2,), (3,), (4,)], [(5,), (6,)])]
    assert kinds == [LAYERS, WHOLE, LAYERS, LAYERS, WHOLE, LAYERS]


class Known:
    """A probe of given times."""

    resolution = 1

    def __init__(self, layers: list[int], whole: int) -> None:
        self.layers, self.whole, self.ran = layers, whole, 0

    def run(self) -> None:
        self.ran += 1

    def passes(self) -> list[Pass]:
        return self.ran * [Pass(self.layers, self.whole)]


class Bench:
    """Layers of 1,000 ns for each pair of channels; a whole network takes 1.1 times as long, and 5,000 ns.

    After ``lives`` networks the process is killed.
    """

    def __init__(self, lives: int = 10_000) -> None:
        self.graph = trace(zoo.build("digits_cnn", classes=10, in_channels=1).eval(), (1, 8, 8))
        self.lives, self.made = lives, 0

    def times(self, counts) -> list[int]:
        self.made += 1
        if self.made > self.lives:
            raise KeyboardInterrupt
        return [
            1000 * int(np.prod([counts[group] for group in own], dtype=int)) for own in touched(self.graph)
        ]

    def layered(self, counts) -> Known:
        times = self.times(counts)
        return Known(times, sum(times))

    def whole(self, counts) -> Known:
        return Known([], round(1.1 * sum(self.times(counts))) + 5000)


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulating, "Monitor", Calm)


def conditions(bench: Bench) -> Conditions:
    return Conditions.here(bench.graph, runtime="torch", threads=1, batch=1)


def table(bench: Bench, path: Path, *, floor: float = 0.5, force: bool = False, here=None):
    return made(bench, here or conditions(bench), path, "known", floor=floor, repeats=3, force=force)


def facts(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}


def test_known_times_come_out(tmp_path: Path) -> None:
    found = table(Bench(), tmp_path / "t.json")
    for layer in found.layers:
        sizes = [found.counts[group] for group in layer.groups]
        expected = np.array([1000 * np.prod(each, dtype=int) for each in itertools.product(*sizes)])
        assert np.ravel(layer.ns).tolist() == (expected + 0.5).round().astype(int).tolist()
    assert found.fit.factor == pytest.approx(1.1, rel=0.02)
    assert found.fit.spearman > 0.99
    assert found.fit.median_error < 0.02
    plans = found.fit.plans
    assert [plan["fitted"] for plan in plans] == 30 * [True] + 30 * [False]
    assert len({tuple(plan["counts"]) for plan in plans}) == 60
    assert not (tmp_path / "t.json.part").exists()


class Tiny(Bench):
    """Two channels to choose from."""

    def __init__(self) -> None:
        super().__init__()
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
        self.graph = trace(network.eval(), (1, 8, 8))


def test_too_few_plans_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    bench = Tiny()
    with pytest.raises(LatencyError, match=r"known has 2 plans with at least 0\.5 of each .*lower floor"):
        table(bench, tmp_path / "t.json")
    assert not bench.made


def test_times_that_are_all_the_same_have_no_order(tmp_path: Path) -> None:
    class Flat(Bench):
        def times(self, counts) -> list[int]:
            return [1000 for _ in super().times(counts)]

    assert table(Flat(), tmp_path / "t.json").fit.spearman == 0
    assert latency.read(tmp_path / "t.json").fit.spearman == 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_resumed_table_is_the_same_file_but_for_the_clock(cut: bool, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.json", tmp_path / "t.json"
    table(Bench(), whole)
    with pytest.raises(KeyboardInterrupt):
        table(Bench(lives=40), path)
    part = tmp_path / "t.json.part"
    if cut:  # in the middle of a line
        part.write_text(part.read_text()[:-20])
    with pytest.raises(KeyboardInterrupt):  # a second kill, after the repaired line
        table(Bench(lives=30), path)
    again = Bench()
    table(again, path)
    assert facts(path) == facts(whole)
    assert again.made < 200
    plain = [
        line for line in whole.read_text().splitlines() if not any(f'"{name}"' in line for name in TIMES)
    ]
    assert [line for line in path.read_text().splitlines() if line in plain] == plain


def test_what_was_measured_under_other_conditions_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        table(Bench(lives=40), path)
    here = conditions(Bench())
    others = {
        "network": "0123", "processor": "another", "runtime": "onnxruntime", "version": "0", "threads": 2,
        "batch": 8,
    }  # fmt: skip
    for name, value in others.items():
        with pytest.raises(LatencyError, match=rf"{name}: the table has .*, here it is {value}.*force=true"):
            table(Bench(), path, here=replace(here, **{name: value}))
    with pytest.raises(LatencyError, match="other counts of channels: delete it, or give the floor"):
        table(Bench(), path, floor=0.2)
    table(Bench(), path, here=replace(here, threads=2), force=True)
    assert latency.read(path).conditions.threads == 2


def test_a_file_that_is_no_part_of_a_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.json.part").write_text("nothing\n")
    with pytest.raises(LatencyError, match=r"t\.json\.part cannot be used .* delete it, or choose another"):
        table(Bench(), tmp_path / "t.json")


WORDS = ("model=digits_cnn", "data=digits", "runtime=torch")


def test_a_finished_table_is_shown_and_one_of_another_machine_refused(
    composed, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "t.json"
    found = table(Bench(), path)
    tabulating.main(composed("latency", f"table={path}", *WORDS))
    told = capsys.readouterr().out
    assert "is finished: nothing to do" in told
    assert "over 30 other random plans Spearman 1.0" in told or "Spearman 0.99" in told
    latency.save(replace(found, conditions=replace(found.conditions, processor="another")), path)
    with pytest.raises(LatencyError, match="processor: the table has another, here it is "):
        tabulating.main(composed("latency", f"table={path}", *WORDS))
    tabulating.main(composed("latency", f"table={path}", *WORDS, "force=true"))


def test_devices_that_there_are_not(composed, tmp_path: Path) -> None:
    cfg = composed("latency", f"table={tmp_path}/t.json", *WORDS, "device=cuda")
    with pytest.raises(ConfigError, match="PyTorch finds no graphics card here"):
        tabulating.main(cfg)
    cfg.runtime = "onnxruntime"
    with pytest.raises(ConfigError, match="cpu, or cuda with runtime=torch"):
        preflight.check(cfg)
