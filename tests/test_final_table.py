"""The table that a search ends with."""

import pytest

from experiments.delivery.table import Gain, Row, _with_share, show
from experiments.recording.networks import DENSE, FOUND, UNIFORM, after_tuning


@pytest.mark.parametrize(
    ("value", "shown"),
    [(4_089_184_256, "4.09G"), (999_700, "1M"), (999_400, "999k"), (40_600_000, "40.6M"), (90, "0.09k")],
)
def test_counts_have_three_digits_and_a_unit(value, shown):
    assert _with_share(value, value) == f"{shown}\n100.0%"


def rows(**changes):
    row = {
        "macs": 1000, "params": 100, "file_bytes": 4000, "selection": 0.5, "test": 0.25, "agreement": 0.9,
        "kl": 0.1, "latency_ms": {}, "counts": [3],
    }  # fmt: skip
    return {name: Row(**row | changes) for name in (DENSE, UNIFORM, FOUND)}


def shown(capsys, found, gain):
    show(found, gain, [])
    return " ".join(capsys.readouterr().out.split())


def test_accuracies_are_in_percent(capsys):
    text = shown(capsys, rows(), Gain(1.5, 0.2, 100, tuned=True))
    assert "selection, % 50.00 50.00 50.00 test, % 25.00 25.00 25.00" in text
    assert (
        "gained +1.50 points over the uniform policy, after the same fine-tuning (standard error 0.20" in text
    )


def test_networks_have_their_names_spelled_out(capsys):
    tuned = rows() | {after_tuning(FOUND): rows()[FOUND]}
    text = shown(capsys, tuned, Gain(1.5, 0.2, 100, tuned=True))
    assert text.startswith("dense uniform found found, fine-tuned ")


def test_no_number_is_cut_where_the_terminal_is_narrow(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    show(rows(), Gain(1.5, 0.2, 100, tuned=True), [])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "selection, %" in line)
    assert line.split()[2:] == ["50.00"] * 3


def test_a_metric_of_ones_own_is_shown_as_it_is(capsys):
    found = rows(test=-0.18325, selection=30.25, agreement=None, kl=None)
    text = shown(capsys, found, Gain(1.56, 9.52, 297, tuned=True))
    assert "selection 30.25 30.25 30.25 test -0.1832 -0.1832 -0.1832" in text
    assert "gained +0.0156 over the uniform policy, after the same fine-tuning (standard error 0.095" in text
