"""Timing: the order and number of calls, and the commands that take any of a network's files."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import COMPRESSED, Card
from amc_env.data.own import OwnData
from amc_env.data.splits import load
from amc_env.data.tensors import from_tensors
from amc_env.evaluator import accuracy
from experiments import evaluate, latency
from experiments.delivery.export import Called
from experiments.delivery.speed import shape_of
from experiments.delivery.timing import Latency, batches_of, measure

CARD = Card("digits_cnn", 10, 1, "digits", (1, 8, 8), 0, "abc")


def run(main, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Call an entry point with a command line; its exit status."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    status = 0
    try:
        main()
    except SystemExit as left:
        status = int(str(left.code))
    return status


@pytest.fixture(scope="module")
def stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and the ``.pt2`` of the same network."""
    stem = tmp_path_factory.mktemp("files") / "net"
    network = zoo.build("digits_cnn", classes=10, in_channels=1).eval()
    weights.save(stem, network, CARD)
    batch = {0: torch.export.Dim("N")}
    torch.export.save(
        torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=(batch,)), f"{stem}.pt2"
    )
    return stem


def test_networks_take_turns_and_the_median_is_of_the_timed_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    costs = {"a": iter([9, 1, 2, 30, 9, 4, 4, 4]), "b": iter([9, 5, 6, 7, 9, 8, 8, 8])}
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def forward(name: str):
        def call(images: torch.Tensor) -> None:
            calls.append((name, tuple(images.shape)))
            clock[0] += next(costs[name]) / 1e3

        return call

    found = measure({n: forward(n) for n in "ab"}, (1, 2, 3), batches=[1, 4], repeats=3, warmup=1)
    assert calls == 4 * [("a", (1, 1, 2, 3)), ("b", (1, 1, 2, 3))] + 4 * [
        ("a", (4, 1, 2, 3)),
        ("b", (4, 1, 2, 3)),
    ]
    assert [(t.batch, t.repeats) for t in found["a"]] == [(1, 3), (4, 3)]
    assert [t.median_ms for t in found["a"]] == pytest.approx([2, 4])
    assert (found["a"][0].lowest_ms, found["a"][0].highest_ms) == pytest.approx((1, 30))
    assert [t.median_ms for t in found["b"]] == pytest.approx([6, 8])


def test_only_a_part_that_takes_nothing_but_images_is_timed() -> None:
    images = torch.zeros(2, 3, 8, 6)
    assert shape_of(Called((images,), {}, None)) == (3, 8, 6)
    for args in ((images, 2), ([images],), ({"images": images},), (images, images), (images[0],), ()):
        assert shape_of(Called(args, {}, None)) is None
    assert shape_of(Called((images,), {"levels": 2}, None)) is None


@pytest.mark.parametrize(
    ("macs", "batches"), [(41_000_000, (1, 64)), (385_000_000, (1, 8)), (4_100_000_000, (1,))]
)
def test_a_large_network_is_timed_with_fewer_images(macs: int, batches: tuple[int, ...]) -> None:
    assert batches_of(macs) == batches


def test_latency_of_several_files(
    stem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoint=[{stem},{stem}.pt2]", "trust=true", "batches=[2]", "repeats=1", "warmup=0"]
    monkeypatch.setenv("COLUMNS", "400")
    assert run(latency.main, monkeypatch, *words) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if str(stem) in line]
    assert [row[:3] for row in rows] == [[str(stem), "torch", "2"], [f"{stem}.pt2", "pt2", "2"]]
    assert all(float(ms) > 0 for row in rows for ms in row[3:])


@pytest.mark.parametrize("columns", ["40", "60"])
def test_no_time_is_cut_where_the_terminal_is_narrow(
    columns: str, stem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    times = [Latency(64, 12345.678, 1.5, 112345.678, 1)]
    monkeypatch.setattr(
        "experiments.delivery.latency.measure", lambda forwards, *_, **__: {p: times for p in forwards}
    )
    assert run(latency.main, monkeypatch, f"checkpoint={stem}") == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "torch" in line)
    assert row.split()[1:] == ["torch", "64", "12345.678", "1.500", "112345.678"]


@pytest.mark.parametrize("suffix", ["", ".pt2"])
def test_evaluate_reads_either_file(
    stem: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoint={stem}{suffix}", "data=digits", f"trust={bool(suffix)}"]
    assert run(evaluate.main, monkeypatch, *words) == 0
    top1 = accuracy(weights.load(stem)[0], load("digits"), "test")
    what = "net.pt2 (pt2)" if suffix else "dense digits_cnn (torch)"
    assert capsys.readouterr().out.startswith(f"{what} on 297 test images of digits: {top1:.2%} ± ")


def test_a_network_for_other_images_is_told_in_one_message(
    stem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = torch.zeros(60, 1, 28, 28, dtype=torch.uint8), torch.arange(60) % 10
    data = from_tensors(images, labels, images, labels, seed=0)
    monkeypatch.setattr("experiments.delivery.evaluate.load_data", lambda node: replace(data, name=node.name))
    assert run(evaluate.main, monkeypatch, f"checkpoint={stem}") == 2
    assert "takes images of shape (1, 8, 8) (C, H, W), those of fashion_mnist are (1, 28, 28)" in (
        capsys.readouterr().err
    )


def test_a_network_whose_weights_alone_are_fewer_is_called_compressed(
    stem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, card = weights.load(stem)
    weights.save(tmp_path / "fewer", network, replace(card, note=f"{COMPRESSED} 0123456789ab"))
    assert run(evaluate.main, monkeypatch, f"checkpoint={tmp_path}/fewer", "data=digits") == 0
    assert capsys.readouterr().out.startswith("compressed digits_cnn")
    words = [f"checkpoint={tmp_path}/fewer", "data=digits", "split=selection", "data.seed=1"]
    assert run(evaluate.main, monkeypatch, *words) == 2
    assert "trained on the splits of data.seed=0" in capsys.readouterr().err


def test_data_without_labels_need_a_metric(
    stem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = [(torch.zeros(2, 1, 8, 8), None)]
    data = OwnData("mine", 10, {name: batches for name in ("calibration", "reward", "selection", "test")})
    monkeypatch.setattr("experiments.delivery.evaluate.load_data", lambda node: data)
    assert run(evaluate.main, monkeypatch, "data=digits", f"checkpoint={stem}") == 2
    assert "has no class labels" in capsys.readouterr().err


@pytest.mark.parametrize("main", [evaluate.main, latency.main])
def test_a_file_that_is_not_there(
    main, stem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, monkeypatch, f"checkpoint={stem.parent}/nut.onnx") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: checkpoint is {stem.parent}/nut.onnx, but there is no ")
    assert told.count("\n") == 1
    assert run(main, monkeypatch) == 2
    assert "no value for checkpoint" in capsys.readouterr().err
