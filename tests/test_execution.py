"""Where networks are run, and how: what is chosen, what is refused, how far the options are from float32."""

import numpy as np
import pytest
import torch
from networks import SHAPE, images, network
from torch import nn

from amc_env.compressors.surgery import drop
from amc_env.evaluator import Evaluator
from amc_env.execution import CPU, DeviceError, Execution, device_of
from amc_env.graph.trace import trace
from amc_env.plan import Plan

DATA = images()


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"finds no GPU; use device=cpu or device=auto"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")
    assert device_of("cpu") == torch.device("cpu")


def test_an_unknown_device_is_an_error():
    with pytest.raises(DeviceError, match="unknown device 'gpu'; there are auto, cpu, cuda"):
        device_of("gpu")


def test_it_says_what_a_result_depends_on():
    assert str(CPU) == "cpu"
    assert str(Execution(torch.device("cuda"), bfloat16=True, compile=True)) == "cuda bfloat16 compile"


def test_bfloat16_gives_float32_logits_that_are_near():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(8, 16)
    with torch.inference_mode():
        exact, near = CPU.logits(model, x), Execution(bfloat16=True).logits(model, x)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.05


def test_a_plan_is_measured_in_bfloat16_nearly_as_in_float32():
    model = network("residual")
    graph = trace(model, SHAPE)
    plan = Plan(graph.hash, tuple(tuple(range(0, len(group), 2)) for group in graph.groups))
    exact, near = (
        Evaluator(model, graph, DATA, drop, execution=Execution(bfloat16=half))(plan)
        for half in (False, True)
    )
    assert near != exact
    assert near.loss == pytest.approx(exact.loss, rel=0.05)


@pytest.mark.slow
def test_a_compiled_network_measures_the_same_plan_after_plan():
    model = network("residual")
    graph = trace(model, SHAPE)
    exact, compiled = (
        Evaluator(model, graph, DATA, drop, execution=Execution(compile=option)) for option in (False, True)
    )
    for step in (2, 3):
        kept = tuple(tuple(range(0, len(group), step)) for group in graph.groups)
        plan = Plan(graph.hash, kept)
        assert compiled(plan).top1 == exact(plan).top1
        np.testing.assert_allclose(compiled(plan).loss, exact(plan).loss, rtol=1e-4)
