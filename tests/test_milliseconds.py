"""Accuracy at equal time, against hand-computed values."""

from pathlib import Path

import pytest
from test_site import run

from experiments.analysis.milliseconds import above, at_time, curve, plot, raced, table

DENSE = {"policy": "dense", "resource": "", "target": 1.0, "seed": 0, "promised_ms": 2.0,
         "measured_ms": 2.0, "test": 0.9, "measure": "accuracy"}  # fmt: skip


def row(policy: str, resource: str, target: float, seed: int, ms: float, test: float):
    return {
        "policy": policy, "resource": resource, "target": target, "seed": seed, 
        "promised_ms": ms, "measured_ms": ms, "test": test, "measure": "accuracy",
    }  # fmt: skip


def test_between_plans_accuracy_is_linear_and_a_slower_plan_that_is_worse_does_not_count() -> None:
    plans = [row("gp", "macs", 0.3, 0, ms, test) for ms, test in ((1.0, 0.5), (1.5, 0.7), (1.75, 0.6))]
    assert at_time([*plans, DENSE], 1.25) == pytest.approx(0.6)
    assert at_time([*plans, DENSE], 1.75) == pytest.approx(0.8)
    assert at_time([*plans, DENSE], 0.5) == 0.5  # a slower one, where none is as fast


ROWS = [
    DENSE,
    row("uniform", "latency", 0.5, 0, 1.0, 0.60), row("uniform", "latency", 0.5, 1, 1.0, 0.62),
    row("gp", "latency", 0.5, 0, 1.0, 0.80), row("gp", "latency", 0.5, 1, 1.0, 0.84),
    row("gp", "macs", 0.3, 0, 0.8, 0.60), row("gp", "macs", 0.3, 1, 1.0, 0.80),
]  # fmt: skip


def test_networks_are_compared_with_those_of_their_seed_at_their_time() -> None:
    found = [row for row in ROWS if curve(row) == "gp by ms"]
    assert above(found, ROWS, "uniform") == pytest.approx([20, 22])
    # seed 0: 0.6 at 0.8 ms and 0.9 at 2 ms make 0.65 at 1 ms
    assert above(found, ROWS, "gp by FLOPs") == pytest.approx([15, 4])
    third = found[1] | {"seed": 2}
    # of no seed: the best of both
    assert above([third], ROWS, "gp by FLOPs") == pytest.approx([4])
    assert above(found, ROWS, "cmaes by FLOPs") == []


def test_the_table_has_a_row_a_policy_and_budget() -> None:
    lines = table(ROWS).splitlines()
    assert lines[3].startswith("| `gp` | 50 % ms | 2 | 50.0 [50.0, 50.0] |")
    assert "82.00 [80.00, 84.00] | +21.00 [+20.00, +22.00] | +9.50 [+4.00, +15.00] |" in lines[3]
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        "| dense", "| `gp`", "| `gp`", "| `uniform`",
    ]  # fmt: skip


def test_a_run_gets_the_costs_of_a_network_as_wide_as_its_own() -> None:
    dense = row("dense", "", 1.0, 0, 4.0, 0.9) | {"ms": {"onnx 1": 4.0}, "counts": [8, 16], "bytes": 90}
    half = row("gp", "macs", 0.5, 0, 2.0, 0.8) | {"ms": {"onnx 1": 2.0}, "counts": [4, 12], "bytes": 30}
    found = [run("gp", 5, 0.8, costs={"bytes": 7.0}), run("gp", 0, 0.8, plan=(), costs={})]
    races = {"net-digits": {"rows": [dense, half, row("old", "macs", 0.5, 0, 2.0, 0.8)]}}
    timed, other = raced(found, races)
    assert timed.costs == {"bytes": 7.0, "ms": 2.0, "ms onnx 1": 2.0, "dense_ms onnx 1": 4.0}
    assert other == found[1]
    assert raced(found, {"net-cifar10": races["net-digits"], "net-digits": {"rows": [half]}}) == found


def test_the_figure_is_the_same_bytes_again(tmp_path: Path) -> None:
    one, other = (plot(ROWS, tmp_path / name, "t").read_bytes() for name in ("a.png", "b.png"))
    assert one == other
