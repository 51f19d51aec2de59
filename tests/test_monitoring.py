"""Timing in turn: which passes count, which are repeated, and the message on a busy machine."""

import math
from collections.abc import Iterator

import pytest

from amc_env.conditions import LatencyError
from experiments.delivery import monitoring
from experiments.delivery.monitoring import Monitor, interleaved, middle, summary, take_turns
from experiments.delivery.probes import Pass


class Script:
    """A monitor whose answers are given."""

    def __init__(self, calm: Iterator[bool], settled: bool = True) -> None:
        self._calm, self._settled = calm, settled

    def calm(self) -> bool:
        return next(self._calm)

    def settles(self) -> bool:
        return self._settled


def always() -> Iterator[bool]:
    while True:
        yield True


class Fixed:
    """A probe whose pass n takes what a function says."""

    resolution = 1

    def __init__(self, log: list[str], name: str, time) -> None:
        self.log, self.name, self.time = log, name, time
        self.ran = 0

    def run(self) -> None:
        self.log.append(self.name)
        self.ran += 1

    def passes(self) -> list[Pass]:
        return [Pass((self.time(at),), self.time(at)) for at in range(self.ran)]


def test_a_disturbed_turn_is_repeated() -> None:
    log: list[str] = []
    probes = [Fixed(log, name, lambda at: at) for name in "ab"]
    calm = iter([True, True, True, False, True])  # the second turn of b is disturbed once
    assert take_turns(probes, Script(calm), 1) == [[True, True], [True, False, True]]
    assert "".join(log) == "aaaa" + "bbbb" + "aaaa" + "bbbb" + "bbbb"


def test_a_turn_is_given_up_after_three_tries() -> None:
    probe = Fixed([], "a", lambda at: at)
    assert take_turns([probe], Script(iter(6 * [False])), 1) == [6 * [False]]
    assert take_turns([probe], Script(always(), settled=False), 0) == [3 * [False]]


def test_only_calm_passes_after_the_first_of_a_turn_count() -> None:
    turns = [[9, 9, 9, 9], [99, 10, 12, 11], [99, 50, 50, 50], [99, 10, 30, 11]]
    passes = [Pass((each - 1, 1), each) for turn in turns for each in turn]
    found = summary(passes, [True, True, False, True], 1)
    # of 10 12 11 10 30 11: lower quartile 10.25, so that 12 and 30 are a tenth above it
    assert found["whole"] == (11, 1)
    assert found["layers"][1] == (2, 0)  # the clock rounds down: the middle of 1 to 2, and a half
    assert found["spread"] == pytest.approx(11 / 10.25 - 1)
    assert summary(passes, 4 * [False], 1)["spread"] == math.inf


def test_the_middle_of_a_clock_that_rounds_down() -> None:
    assert middle([1000, 1000, 1000], 1000) == (1500, 0)
    assert middle([1000, 2000, 2000, 3000], 1000) == (2500, 500)


def test_an_unsteady_network_is_timed_again_and_the_others_are_not() -> None:
    made: list[str] = []

    def make(job: str) -> Fixed:
        made.append(job)
        unsteady = job == "b" and made.count("b") < 3
        return Fixed([], job, lambda at: 100 if unsteady and at % 4 != 1 else 10)

    found = dict(interleaved(make, ["a", "b"], Script(always()), repeats=9))
    assert made == ["a", "b", "b", "b"]
    assert found["b"]["whole"] == found["a"]["whole"]


def test_a_machine_that_stays_busy_is_told_with_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "running", lambda: "97 % of the processors are in use, by make 90 %")
    steady = []

    def make(job: str) -> Fixed:
        return Fixed([], job, lambda at: 100 if job == "b" and at % 4 != 1 else 10)

    with pytest.raises(LatencyError) as error:  # noqa: PT012
        for job, _ in interleaved(make, ["a", "b"], Script(always()), repeats=9):
            steady.append(job)
    assert steady == ["a"]  # what was measured is kept
    assert "too busy to measure" in str(error.value)
    assert "more than 10% in 3 tries" in str(error.value)
    assert "by make 90 %" in str(error.value)


def test_what_runs_is_named() -> None:
    assert "of the processors are in use, by " in monitoring.running()


def test_the_monitor_compares_with_its_best() -> None:
    clock, speed, slept = [0], [100], []

    def now() -> int:
        clock[0] += speed[0]
        return clock[0]

    def wake(seconds: float) -> None:
        slept.append(seconds)
        speed[0] = 100 if len(slept) == 4 else speed[0]

    monitor = Monitor(now, wake)
    assert monitor.calm()
    speed[0] = 109
    assert monitor.calm()
    speed[0] = 111
    assert not monitor.calm()
    assert monitor.settles()
    assert len(slept) == 4
    speed[0] = 50  # the best is what was best at any time
    assert monitor.calm()
    speed[0] = 100
    assert not monitor.calm()
