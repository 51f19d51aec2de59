"""The speed suite on a tiny network: both sides agree, and the figures are computed correctly."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from amc_env import checkpoints
from amc_env.data.splits import load
from amc_env.graph.trace import trace
from experiments.benchmarks import sides
from experiments.benchmarks.__main__ import bench, main, record
from experiments.benchmarks.reference import BenchmarkError, Reference, Settings
from experiments.benchmarks.tables import table

TINY = Settings(
    data="digits", target=0.6, calibration_images=200, points=10, reward_images=60, plans=2, repeats=1
)


@pytest.fixture(scope="module")
def digits():
    return checkpoints.load(checkpoints.shipped("digits_cnn-digits"))[0], load("digits")


@pytest.fixture
def compared(cache):
    return bench("digits_cnn", TINY)


def test_both_sides_agree_on_the_same_plans(compared):
    rows = compared["rows"]
    assert len(rows) == len({row["hash"] for row in rows}) == 2
    apart = max(abs(row["difference_points"]) for row in rows)
    assert compared["results"]["rewards"]["largest_points"] == pytest.approx(apart, rel=1e-5)
    assert apart <= 100 / TINY.reward_images + 1e-9  # an image


def test_a_record_of_a_gpu_says_so_in_the_table(compared):
    compared["config"] |= {"device": "cuda", "threads": 2}
    compared["run"]["gpu"] = "NVIDIA H100"
    lines = {table({name: compared}).splitlines()[2] for name in ("digits_cnn_cuda", "digits_cnn_cuda_2")}
    (first,) = lines
    assert first.startswith("| `digits_cnn`, NVIDIA H100, 2 threads | released procedure | ")
    compared["config"]["threads"] = 1
    assert table({"digits_cnn_cuda": compared}).splitlines()[2].startswith("| `digits_cnn`, NVIDIA H100 | ")


def test_the_stored_rows_are_those_of_the_moments(digits, cache):
    model, data = digits
    ours = sides.Ours(model, data, TINY)
    features = Reference(model, data, ours.env.graph, TINY).features
    moments = ours.solve.inner.__self__
    assert features.keys() == moments.counts.keys()
    for name, gram in moments.grams.items():
        inputs, outputs = features[name]
        weight = model.get_parameter(f"{name}.weight").detach().flatten(1)
        assert len(inputs) == moments.counts[name]
        np.testing.assert_allclose(inputs.T @ inputs / len(inputs), gram[0], atol=1e-4)
        np.testing.assert_allclose(inputs @ weight.numpy().T, outputs, atol=1e-4)


def test_the_reference_plays_again_what_it_played_and_leaves_the_network_alone(digits):
    model, data = digits
    graph = trace(model, data.shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference = Reference(model, data, graph, TINY)
    counts = [len(group) // 2 for group in graph.groups]
    first = reference.play(counts)
    reference.play([1] * len(counts))
    again = reference.play(counts)
    assert (first.top1, first.kept) == (again.top1, again.kept)
    assert [len(kept) for kept in first.kept] == counts
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_whole_layers_leave_the_dense_accuracy(digits):
    model, data = digits
    graph = trace(model, data.shape)
    played = Reference(model, data, graph, TINY).play([len(group) for group in graph.groups])
    with torch.no_grad():
        ((batch, labels),) = data.batches("reward", 60, 60)
        assert played.top1 == (model(batch).argmax(1) == labels).float().mean().item()


def test_grouped_convolutions_are_refused():
    data = load("digits")
    grouped = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()
    with pytest.raises(BenchmarkError, match="no grouped"):
        Reference(grouped, data, trace(grouped, data.shape), TINY)


def test_each_play_starts_without_memory(digits, cache):
    ours = sides.Ours(*digits, TINY)
    actions = [np.array([0.5], np.float32)] * len(ours.env.graph.groups)
    for _ in range(2):
        ours.play(actions)
        assert ours.env.evaluator.evaluations == 1
    assert ours.solve.seconds > 0
    assert ours.bare_seconds(ours.env.plan) > 0


def test_sides_that_keep_other_channels_are_not_compared(digits, cache):
    ours = sides.Ours(*digits, TINY)
    reference = Reference(*digits, ours.env.graph, TINY)
    ours.env.compressor.choose = lambda group, count: tuple(range(count))
    with pytest.raises(BenchmarkError, match="different channels"):
        sides.play(ours, reference, [np.array([0.5], np.float32)] * len(ours.env.graph.groups))


def test_ratios_are_of_each_row_with_itself():
    rows = [
        {"ours_seconds": {"episode": a, "solve": 1.0}, "bare_seconds": {"episode": b}}
        for a, b in ((2.0, 1.0), (9.0, 3.0), (4.0, 4.0))
    ]
    assert sides.ratio(rows, "ours", "bare") == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    assert sides.medians(rows, "ours") == {"episode": 4.0, "solve": 1.0}


def test_the_table_is_made_of_records_alone(compared):
    read = {"digits_cnn": json.loads(json.dumps(compared))}
    assert read["digits_cnn"]["config"]["reward_images"] == 60
    lines = table(read).splitlines()
    assert lines[0] == "| network | seconds of | choose | solve | cut | forward | episode |"
    assert lines[2].startswith("| `digits_cnn` | released procedure | ")
    assert lines[4].startswith("|  | bare forward pass |  |  |  |  | ")
    assert lines[-1].startswith("| `digits_cnn` | digits_cnn-digits | 2 x 1 | ")
    assert lines[-1].count(" | at most ") == 1
    assert table({}) == ""


def test_threads_are_given_back(compared):
    before = torch.get_num_threads()
    bench("digits_cnn", replace(TINY, plans=1, threads=1))
    assert torch.get_num_threads() == before


def test_a_record_says_what_it_was_made_with():
    made = record(TINY, results={}, rows=[])
    assert made["config"]["target"] == 0.6
    assert made["seeds"] == {"all": 0}


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
