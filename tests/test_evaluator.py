"""The evaluator: results, caching, timing, refusals, and no side effects."""

import math

import pytest
import torch
from generators import global_state
from networks import NETWORKS, SHAPE, images, network
from torch import nn

from amc_env import evaluator as evaluators
from amc_env.compressors import remembered
from amc_env.compressors.networks import CutNetworks, MaskedNetworks, networks
from amc_env.compressors.surgery import cut
from amc_env.cost import macs
from amc_env.evaluator import Evaluator, accuracy
from amc_env.execution import evaluating
from amc_env.graph.trace import trace
from amc_env.metrics import EvaluationError, mean, per_image
from amc_env.plan import Plan

DATA = images()


def evaluator(model, **settings):
    graph = trace(model, SHAPE)
    return graph, Evaluator(CutNetworks(model, graph), DATA, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dense_plan_is_the_dense_network(name):
    model = network(name)
    graph, evaluate = evaluator(model)
    found = evaluate(Plan.dense(graph))
    assert found.top1 == accuracy(model, DATA, "reward")
    assert found.agreement == 1
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.n_images == len(DATA["reward"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_is_measured_as_its_cut_network_is(name):
    model = network(name)
    graph, evaluate = evaluator(model)
    plan = Plan(graph.hash, tuple(tuple(range(0, len(group), 2)) for group in graph.groups))
    small = cut(model, graph, plan).eval()
    with torch.no_grad():
        ((pixels, labels),) = DATA.batches("reward", 100)
        expected = mean(per_image(small(pixels), labels, model(pixels).log_softmax(1)), "reward")
    found = evaluate(plan)
    assert (found.top1, found.agreement) == (expected.top1, expected.agreement)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.kl == pytest.approx(expected.kl, rel=1e-3)
    assert found.kl > 1e-3


def test_a_plan_seen_before_is_answered_from_memory():
    graph, evaluate = evaluator(network("chain"))
    plan = Plan.dense(graph).with_group(0, (0, 1))
    first, sent = evaluate(plan), evaluate.forwards
    assert evaluate(Plan(plan.graph, plan.kept)) == first
    assert (evaluate.forwards, evaluate.evaluations) == (sent, 1)
    assert evaluate(plan.with_group(0, (0, 2))) != first
    assert (evaluate.forwards, evaluate.evaluations) == (sent + 40, 2)


def test_memory_or_not_and_in_any_order_a_plan_has_one_value():
    """The cut network is refilled for each plan: nothing of one may be left in the next."""
    graph, evaluate = evaluator(network("residual"))
    plans = [Plan.dense(graph).with_group(0, kept) for kept in ((0,), tuple(range(12)), (3, 5, 7))]
    forward = [evaluate(plan) for plan in plans]
    _, fresh = evaluator(network("residual"))
    assert [fresh(plan) for plan in reversed(plans)] == forward[::-1]


def test_split_and_number_of_images_are_as_asked():
    model = network("chain")
    graph, evaluate = evaluator(model, split="selection", images=17)
    found = evaluate(Plan.dense(graph))
    assert (found.n_images, found.split) == (17, "selection")
    pixels, labels = next(DATA.batches("selection", 17))
    with torch.no_grad():
        assert found.top1 == (model(pixels).argmax(1) == labels).sum().item() / 17


def test_model_modes_gradients_and_global_generators_are_left_alone():
    model = network("chain").train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generators = global_state()
    graph, evaluate = evaluator(model)
    evaluate(Plan.dense(graph).with_group(1, (0, 3)))
    accuracy(model, DATA, "test")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert global_state() == generators


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())

    def fail():
        with evaluating(model):
            assert not model[0].training
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_damaged_dense_weights_are_named_at_once(value):
    model = network("chain")
    model[1][0].weight.data[0, 0, 0, 0] = value
    with pytest.raises(EvaluationError, match=r"dense network are not finite: 1\.0\.weight holds NaN or inf"):
        evaluator(model)


def test_a_refit_that_gives_nan_is_an_error_with_the_plan():
    def damaged(problems):
        for _, _, weight, columns in problems:
            yield weight[:, columns] * (math.nan if len(columns) < weight.size(1) else 1)

    model = network("chain")
    graph = trace(model, SHAPE)
    evaluate = Evaluator(CutNetworks(model, graph, damaged), DATA)
    plan = Plan.dense(graph).with_group(2, (0, 1))
    with pytest.raises(EvaluationError, match=rf"plan {plan.hash} are not finite: 3\.2\.weight holds NaN"):
        evaluate(plan)


def test_finite_weights_that_overflow_are_told_apart():
    model = network("chain")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1e20)
    with pytest.raises(EvaluationError, match="its weights are finite, so an activation overflows"):
        evaluator(model)


class Counting:
    """A `Solve` that scales what it is given and notes each layer that lost inputs, its rows and columns."""

    def __init__(self):
        self.asked = []

    def __call__(self, problems):
        for layer, _, weight, columns in problems:
            if len(columns) < weight.size(1):
                self.asked.append((layer.name, len(weight), len(columns)))
            yield weight[:, columns] * (1 + 1 / len(columns))


def test_a_layer_is_solved_once_for_each_choice_of_its_inputs():
    model, solve = network("residual"), Counting()
    graph = trace(model, SHAPE)
    evaluate = Evaluator(CutNetworks(model, graph, solve), DATA)
    first = Plan.dense(graph).with_group(0, (0, 1, 2))
    evaluate(first)
    asked = list(solve.asked)
    assert all(rows == graph.layer(name).c_out for name, rows, _ in asked)
    # another group, read by other layers: those of the first are known, whatever rows of them stay
    evaluate(first.with_group(1, (0, 3)))
    new = solve.asked[len(asked) :]
    assert {name for name, _, _ in new} == {graph.consumer(graph.groups[1]).name}
    evaluate(first.with_group(1, (1, 3)))
    assert len(solve.asked) == len(asked) + 2 * len(new)


def test_solutions_beyond_the_limit_are_made_again_and_are_the_same(monkeypatch):
    monkeypatch.setattr(remembered, "BYTES", 3000)  # bytes: one layer or two
    model, solve = network("chain"), Counting()
    graph = trace(model, SHAPE)
    evaluate, fresh = (Evaluator(CutNetworks(model, graph, each), DATA) for each in (solve, Counting()))
    plans = [Plan.dense(graph).with_group(1, kept) for kept in ((0, 1), (2, 3, 4), (0, 1))]
    plans[2] = plans[2].with_group(0, (0, 1))
    assert [evaluate(plan) for plan in plans] == [fresh(plan) for plan in plans]
    known = evaluate._networks._surgeon._solutions._known
    assert known.nbytes == sum(weight.nbytes for weight, _ in known._known.values()) <= 3000


def test_the_last_values_stay_however_large_they_are(monkeypatch):
    monkeypatch.setattr(remembered, "BYTES", 10)
    cache = remembered.Remembered(least=1)
    for at, size in enumerate((4, 6, 5, 20)):
        assert cache.add(at, f"value {at}", size) == f"value {at}"
        assert cache.get(at) == f"value {at}"
    assert [cache.get(at) for at in range(4)] == [None, None, None, "value 3"]
    assert cache.nbytes == 20
    cache.add(4, "small", 1)
    assert (cache.get(3), cache.get(4), cache.nbytes) == (None, "small", 1)


def test_a_gpu_runs_networks_at_full_size_unless_they_are_large_or_have_norms(monkeypatch):
    gpu, model = torch.device("meta"), network("separable")
    graph = trace(model, SHAPE)
    assert type(networks(model, graph, device=gpu, images=40)) is MaskedNetworks
    assert type(networks(model, graph, images=40)) is CutNetworks
    norms = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(288, 4)).eval()
    assert type(networks(norms, trace(norms, SHAPE), device=gpu, images=40)) is CutNetworks
    dense = sum(macs(layer, layer.c_in, layer.c_out) for layer in graph.layers)
    for most, expected in ((40 * dense, CutNetworks), (40 * dense + 1, MaskedNetworks)):
        monkeypatch.setattr("amc_env.compressors.networks.MOST_MASKED", most)
        assert type(networks(model, graph, device=gpu, images=40)) is expected


@pytest.mark.parametrize("name", NETWORKS)
def test_at_full_size_the_answer_is_the_same(name):
    model = network(name)
    graph, exact = evaluator(model)
    whole = Evaluator(MaskedNetworks(model, graph), DATA)
    for step in (2, 3, 2):
        plan = Plan(graph.hash, tuple(tuple(range(0, len(group), step)) for group in graph.groups))
        assert whole(plan).loss == pytest.approx(exact(plan).loss, rel=1e-5)
        assert whole(plan).kl == pytest.approx(exact(plan).kl, rel=1e-3, abs=1e-6)
    assert whole.evaluations == 2


def test_the_dense_plan_is_not_repaired():
    model, repaired = network("chain"), []
    graph = trace(model, SHAPE)
    evaluate = Evaluator(CutNetworks(model, graph, repair=lambda *given: repaired.append(given)), DATA)
    evaluate(Plan.dense(graph))
    assert not repaired
    evaluate(Plan.dense(graph).with_group(0, (0, 1)))
    assert len(repaired) == 1


@pytest.mark.parametrize(("images", "size"), [(40, 40), (1000, 50), (51, 26), (5001, 50)])
def test_batches_are_of_one_size_as_nearly_as_can_be(images, size):
    graph = trace(network("chain"), SHAPE)
    assert evaluators._batch_size(graph, "cpu", images) == size
