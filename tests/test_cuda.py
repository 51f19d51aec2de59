"""A GPU gives the results of the CPU up to rounding; skipped without a GPU."""

import math

import pytest
import torch
from networks import SHAPE, images, network

from amc_env import checkpoints as weights
from amc_env.building import make_env
from amc_env.compressors.surgery import cut
from amc_env.data.splits import load
from amc_env.evaluator import accuracy
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from amc_env.repair.moments import collect
from experiments.recording.record import RunRecord
from experiments.searching.search import search
from experiments.training import steps
from experiments.training.loop import train
from experiments.training.recipe import Recipe
from experiments.training.steps import CapturedSteps, Steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """The GPU is seen again, and convolutions are in float32 there, not in TF32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def halves(graph):
    return Plan(graph.hash, tuple(tuple(range(0, len(group), 2)) for group in graph.groups))


@pytest.mark.parametrize("points", [1, 20])
def test_layers_are_refitted_as_on_the_cpu(points):
    model, data = network("residual"), images()
    graph = trace(model, SHAPE)
    moments = collect(model, graph, data, images=40, points=points, seed=0)
    on_cpu = cut(model, graph, halves(graph), moments.solve).state_dict()
    on_gpu = cut(model.to(GPU), graph, halves(graph), moments.to(GPU).solve).state_dict()
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("refit", ["none", "moments", "sequential"])
def test_an_episode_ends_as_on_the_cpu(refit, cache):
    model, _ = weights.load(weights.shipped("digits_cnn-digits"))
    ends = []
    for device in ("cpu", "cuda"):
        env = make_env(model, load("digits"), repair=refit, device=device, reward_images=None)
        env.reset()
        for _ in env.graph.groups:
            *_, end = env.step([0.4])
        ends.append(end)
    assert ends[1]["plan"] == ends[0]["plan"]
    assert ends[1]["loss"] == pytest.approx(ends[0]["loss"], rel=1e-3)
    assert ends[1]["top1"] == pytest.approx(ends[0]["top1"], abs=0.006)  # an image


def test_a_network_learns_there_and_is_measured_there():
    model, data = network("residual"), images()
    history = train(model, data, Recipe(epochs=4, batch_size=16, shift=0, bfloat16=True), device=GPU)
    assert next(model.parameters()).device.type == "cuda"
    assert history[-1].loss < history[0].loss
    assert accuracy(model.cpu(), data, "selection") == pytest.approx(history[-1].selection, abs=0.1)


def test_the_whole_job(tmp_path, cache, composed):
    cfg = composed("config", "experiment=digits", "episodes=30", "env.device=cuda", "tracking=none")
    record = search(cfg, tmp_path)
    assert isinstance(record, RunRecord)
    assert record.content["results"]["execution"] == "cuda"
    assert (tmp_path / "compressed.onnx").exists()


def test_a_captured_training_is_that_of_single_steps(monkeypatch):
    """One batch an epoch, so that its order does not matter; the first step has no momentum in both."""
    losses = []
    for kind in (Steps, CapturedSteps):
        monkeypatch.setattr(steps, "CapturedSteps", kind)
        model, data = network("residual"), images()
        recipe = Recipe(epochs=4, batch_size=len(data["train"]), lr=0.02, shift=0)
        losses.append([epoch.loss for epoch in train(model, data, recipe, device=GPU)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_forward_that_cannot_be_captured_is_trained_step_by_step():
    model, data = network("residual"), images()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None  # an average over all batches, which reads their number back
    with pytest.warns(UserWarning, match="cannot be captured"):
        history = train(model, data, Recipe(epochs=3, batch_size=16, lr=0.02), device=GPU)
    assert history[-1].loss < history[0].loss
    again = train(network("residual"), data, Recipe(epochs=1, batch_size=16, lr=0.02), device=GPU)
    assert math.isfinite(again[0].loss)  # a later training is captured as ever


def test_a_captured_training_that_is_cut_off_goes_on(tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 1:
            raise Stop

    data, recipe = images(), Recipe(epochs=3, batch_size=16, lr=0.02)
    whole = train(network("residual"), data, recipe, device=GPU)
    with pytest.raises(Stop):
        train(network("residual"), data, recipe, device=GPU, state=tmp_path / "state", on_epoch=stop)
    resumed = train(network("residual"), data, recipe, device=GPU, state=tmp_path / "state")
    assert [epoch.loss for epoch in resumed] == pytest.approx([epoch.loss for epoch in whole], rel=0.05)
