"""The speed suite on a tiny network: both sides agree, and its figures are what they are said to be."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from amc_env.cost import macs
from amc_env.graph.trace import trace
from experiments.benchmarks import RANDOM, memory, passes, sides
from experiments.benchmarks.__main__ import main, record, write
from experiments.benchmarks.ours import Bare, Ours
from experiments.benchmarks.reference import Reference
from experiments.benchmarks.scaling import Point, exponent, scale
from experiments.benchmarks.subjects import (
    BenchmarkError,
    Settings,
    Subject,
    images,
    subject,
    threads,
)
from experiments.benchmarks.tables import table

TINY = Settings(
    data="digits",
    target=0.6,
    calibration_images=200,
    points=10,
    reward_images=60,
    plans=2,
    repeats=1,
    episodes=3,
)


@pytest.fixture(scope="module")
def digits():
    return subject("digits_cnn", images(TINY))


@pytest.fixture
def compared(digits, cache):
    return sides.compare(digits, TINY, say=lambda line: None)


def test_both_sides_agree_on_the_same_plans(compared):
    rows = compared["rows"]
    assert len(rows) == len({row["hash"] for row in rows}) == 2
    assert max(abs(row["difference_points"]) for row in rows) <= 100 / TINY.reward_images  # an image
    assert compared["results"]["rewards"]["largest_points"] == max(abs(r["difference_points"]) for r in rows)


def test_a_record_of_a_gpu_says_so_in_the_table(compared):
    compared["results"]["peak_bytes"] = {}
    made = record(replace(TINY, threads=2), **compared)
    made["config"]["device"], made["run"]["gpu"] = "cuda", "NVIDIA H100"
    (first,) = {table({name: made}).splitlines()[2] for name in ("digits_cnn_cuda", "digits_cnn_cuda_2")}
    assert first.startswith("| `digits_cnn`, NVIDIA H100, 2 threads | released procedure | ")
    made["config"]["threads"] = 1
    assert table({"digits_cnn_cuda": made}).splitlines()[2].startswith("| `digits_cnn`, NVIDIA H100 | ")


def test_the_stored_rows_are_those_of_the_moments(digits, cache):
    ours = Ours(digits, TINY)
    features = Reference(digits, ours.env.graph, TINY).features
    moments = ours.solve._solve.__self__
    assert features.keys() == moments.counts.keys()
    for name, gram in moments.grams.items():
        inputs, outputs = features[name]
        weight = digits.model.get_parameter(f"{name}.weight").detach().flatten(1)
        assert len(inputs) == moments.counts[name]
        np.testing.assert_allclose(inputs.T @ inputs / len(inputs), gram[0], atol=1e-4)
        np.testing.assert_allclose(inputs @ weight.numpy().T, outputs, atol=1e-4)


def test_the_reference_plays_again_what_it_played_and_leaves_the_network_alone(digits):
    graph = trace(digits.model, digits.data.shape)
    before = {name: value.clone() for name, value in digits.model.state_dict().items()}
    reference = Reference(digits, graph, TINY)
    counts = [len(group) // 2 for group in graph.groups]
    first = reference.play(counts)
    reference.play([1] * len(counts))
    again = reference.play(counts)
    assert (first.top1, first.kept) == (again.top1, again.kept)
    assert [len(kept) for kept in first.kept] == counts
    assert all(torch.equal(value, before[name]) for name, value in digits.model.state_dict().items())


def test_whole_layers_leave_the_dense_accuracy(digits):
    graph = trace(digits.model, digits.data.shape)
    played = Reference(digits, graph, TINY).play([len(group) for group in graph.groups])
    with torch.no_grad():
        ((batch, labels),) = digits.data.batches("reward", 60, 60)
        assert played.top1 == (digits.model(batch).argmax(1) == labels).float().mean().item()


def test_grouped_convolutions_are_refused():
    data = images(TINY)
    grouped = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()
    with pytest.raises(BenchmarkError, match="no grouped"):
        Reference(Subject("grouped", grouped, RANDOM, data), trace(grouped, data.shape), TINY)


def test_each_play_starts_without_memory(digits, cache):
    ours = Ours(digits, TINY)
    (chosen, _) = sides.actions(TINY, len(ours.env.graph.groups))
    for _ in range(2):
        ours.forget()
        ours.play(chosen)
        assert ours.judge.evaluations == 1
    assert ours.solve.seconds > 0
    assert Bare(digits, ours.env, TINY, batches=(20, 60)).batch in (20, 60)


def test_ratios_are_of_each_row_with_itself():
    rows = [
        {"ours_seconds": {"episode": a, "solve": 1.0}, "bare_seconds": {"episode": b}}
        for a, b in ((2.0, 1.0), (9.0, 3.0), (4.0, 4.0))
    ]
    assert sides.ratio(rows, "ours", "bare") == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    assert sides.medians(rows, "ours") == {"episode": 4.0, "solve": 1.0}


def test_the_agreement_of_rewards():
    rows = [
        {"difference_points": -0.5},
        {"difference_points": 0.1},
    ]
    assert sides.rewards(rows) == {
        "largest_points": 0.5,
        "mean_points": 0.3,
        "agree": False,
    }
    assert sides.rewards(rows[1:])["agree"]


@pytest.mark.parametrize(("power", "factor"), [(1.0, 2.0), (0.5, 7.0), (0.0, 3.0), (2.0, 0.1)])
def test_the_exponent_of_a_power_law(power, factor):
    x = np.array([1.0, 2.0, 5.0, 11.0])
    assert exponent(x, factor * x**power) == pytest.approx(power, abs=1e-12)


def test_the_exponent_by_hand():
    assert exponent([1, 2, 4], [3, 6, 6]) == pytest.approx(0.5)  # log2: 0, 1, 1 over 0, 1, 2


def test_calibration_images_that_lack_come_from_train():
    some, more = images(TINY), images(replace(TINY, calibration_images=230))
    assert len(more["calibration"]) == 230
    assert torch.equal(more["calibration"].images[:200], some["calibration"].images)
    assert torch.equal(more["calibration"].images[200:], some["train"].images[-30:])
    assert torch.equal(more["reward"].images, some["reward"].images)
    with pytest.raises(BenchmarkError, match="200 reward images, not 201"):
        images(replace(TINY, reward_images=201))


def test_random_weights_say_so():
    made = subject("digits_cnn", images(TINY))
    assert made.weights.startswith("digits_cnn-digits, sha256 ")
    random = subject("mobilenet_v1", images(TINY), width=0.25)
    assert random.weights == RANDOM
    assert not random.model.training


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_peak_memory_of_a_process_of_its_own():
    assert memory.peak("reference", "digits_cnn", TINY) > 2**26


def test_peak_memory_of_a_long_search_and_of_a_large_network(cache):
    first, last = memory.peak("long", "digits_cnn", [2, 4], replace(TINY, reward_images=30))
    assert 2**26 < first <= last
    light = {"images": 8, "size": 32, "classes": 10, "points": 2}
    assert 0 <= memory.large(TINY, **light) <= 1
    assert memory.most() > 2**26


def test_the_table_of_memory():
    results = {"long": {"episodes": [1, 2000], "bytes": [10**9, 2 * 10**9]}}
    results["large"] = {**memory.LARGE, "bytes": 3 * 10**9}
    lines = table({"memory": record(TINY, results=results, rows=[])}).splitlines()
    assert lines[0].startswith("| peak memory, MB | after 1 episodes of `plain20` | after 2,000 episodes")
    assert lines[0].endswith("| `resnet50` at 224, 512 + 512 images |")
    assert lines[2] == "|  | 1,000 | 2,000 | 3,000 |"


def test_memory_is_of_the_same_plan(cache):
    accuracies = [memory.episode(side, "digits_cnn", TINY) for side in sides.SIDES]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1 / 60 + 1e-9)


def test_passes_by_hand():
    """1,000 multiplications in 4 seconds, where a matrix product does 800 in one."""
    rows = [
        {"macs": 1000, "plain": 4.0, "reference": 10.0, "rate": 800.0},
        {"macs": 1000, "plain": 4.0, "reference": 20.0, "rate": 700.0},
        {"macs": 1000, "plain": 4.0, "reference": 5.0, "rate": 700.0},
    ]
    assert passes.summary(rows) == {
        "seconds": {"plain": 4.0},
        "rate": {"product": 800.0, "plain": 250.0},
        "limit": {"median": 8.0, "lowest": 4.0, "highest": 16.0},
    }


def test_passes_are_of_the_same_plans(digits, cache):
    found = passes.measure(digits, TINY, say=lambda line: None)
    rows = found.pop("rows")
    assert [(row["plan"], row["repeat"]) for row in rows] == [(0, 0), (1, 0)]
    assert all(row[side] > 0 for row in rows for side in ("plain", "reference", "rate"))
    layers = trace(digits.model, digits.data.shape).layers
    dense = TINY.reward_images * sum(macs(layer, layer.c_in, layer.c_out) for layer in layers)
    assert all(0.2 * dense < row["macs"] <= 0.6 * dense for row in rows)
    lines = table({"passes": record(TINY, results={"digits_cnn": found}, rows=rows)}).splitlines()
    assert [line.count("|") for line in lines] == [6] * 3
    assert lines[2].startswith("| `digits_cnn` | ")


def test_the_table_is_made_of_records_alone(compared, tmp_path, cache):
    curve = {"images": [Point(30, "digits_cnn", {}, 30), Point(60, "digits_cnn", {}, 60)]}
    scaled = record(TINY, results=scale(TINY, curve, say=lambda line: None), rows=[])
    compared["results"]["peak_bytes"] = {"ours": 200_000_000, "reference": 1_500_000_000}
    write(tmp_path / "digits_cnn.json", record(TINY, **compared))
    read = {"digits_cnn": json.loads((tmp_path / "digits_cnn.json").read_text()), "scaling": scaled}
    assert read["digits_cnn"]["rows"][0]["hash"] == compared["rows"][0]["hash"]
    assert read["digits_cnn"]["config"]["reward_images"] == 60
    lines = table(read).splitlines()
    assert lines[0] == "| network | seconds of | choose | solve | cut | forward | episode | peak memory, MB |"
    assert lines[2].startswith("| `digits_cnn` | released procedure | ")
    assert lines[2].endswith(" | 1,500 |")
    assert lines[4].startswith("|  | bare forward pass |  |  |  |  | ")
    (ratios,) = [line for line in lines if line.startswith("| `digits_cnn` | digits_cnn-digits | 2 x 1 | ")]
    assert ratios.count(" | at most ") == 1
    assert lines[-1].startswith("| reward images | 30, 60 | ")
    assert table({}) == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plain20", "--device", "gpu"], "unknown device 'gpu'; there are auto, cpu, cuda"),
        (["plain20", "--device", "cuda"], "finds no GPU; use device=cpu or device=auto"),
        (["plain21"], "no benchmark plain21; choose from plain20"),
    ],
)
def test_what_cannot_be_timed_is_told(arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err


def test_the_processors_benchmarks_are_not_for_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "plain20", "memory", "--device", "cuda"])
    with pytest.raises(SystemExit):
        main()
    assert "memory: of the processor alone; on a GPU plain20" in capsys.readouterr().err
