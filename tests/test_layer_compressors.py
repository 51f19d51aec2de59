"""Compressors that decide layer by layer: what they keep, its cost, and the environment."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from amc_env import checkpoints
from amc_env.budget import BudgetError
from amc_env.building import make_env, make_task
from amc_env.card import CheckpointError
from amc_env.compressors import plan_of
from amc_env.compressors.constraints import Shared, unconstrained
from amc_env.compressors.fine_grained import FineGrained, curvature
from amc_env.compressors.low_rank import LowRank, RankError, factored
from amc_env.compressors.weight_sharing import WeightSharing, refit_values
from amc_env.data.splits import load
from amc_env.data.tensors import from_tensors
from amc_env.graph.trace import trace
from amc_env.plan import Plan, PlanError
from amc_env.repair.moments import collect
from experiments.training.loop import train
from experiments.training.recipe import Recipe

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (120, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, 4, (120,), generator=GENERATOR)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 2)),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 4 * 8, 20), nn.ReLU(), nn.Linear(20, 4),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return from_tensors(IMAGES, LABELS, IMAGES[:20], LABELS[:20], seed=0)


@pytest.fixture(scope="module")
def subject(data):
    model = network()
    graph = trace(model, data.shape)
    return model, graph, collect(model, graph, data, images=40, points=8, seed=0)


def output_error(module, dense, x):
    with torch.no_grad():
        return float((module(x) - dense(x)).square().mean() / dense(x).square().mean())


def inputs_of(model, data, index):
    images, _ = next(data.batches("calibration", 16))
    with torch.no_grad():
        return model[:index](images)


METHODS = {
    "fine_grained": lambda model, moments: FineGrained(
        model, moments, second_order=moments is not None, repair=moments is not None, floor=0.02
    ),
    "weight_sharing": lambda model, moments: WeightSharing(model, moments, start="linear", seed=0),
    "low_rank": lambda model, moments: LowRank(model, moments, split="channel", floor=0.05),
    "spatial": lambda model, moments: LowRank(model, moments, split="spatial", floor=0.05),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("index", [2, 5])
def test_more_is_kept_more_closely_and_moments_help(subject, data, name, index):
    model, graph, moments = subject
    informed, blind = METHODS[name](model, moments), METHODS[name](model, None)
    layer, x = graph.layer(str(index)), inputs_of(model, data, index)
    choices = informed.choices(layer)[:-1]
    errors = {
        method: [
            output_error(method.module(layer, int(count)), model[index], x)
            for count in choices[:: max(1, len(choices) // 4)]
        ]
        for method in (informed, blind)
    }
    assert errors[informed][-1] < errors[informed][0]
    assert sum(errors[informed]) <= 1.02 * sum(errors[blind])


@pytest.mark.parametrize(
    ("split", "index"), [("channel", "2"), ("spatial", "2"), ("channel", "5"), ("channel", "0")]
)
def test_the_full_rank_is_the_dense_layer(subject, data, split, index):
    model, graph, moments = subject
    method, layer = LowRank(model, moments, split=split, floor=0.05), graph.layer(index)
    module = method.module(layer, len(method.costs(layer, "macs")) - 1)
    assert output_error(module, model[int(index)], inputs_of(model, data, int(index))) < 1e-4
    assert len(list(module.children())) == 2


@pytest.mark.parametrize("split", ["channel", "spatial"])
def test_what_ranks_cost_is_what_the_two_layers_hold(subject, split):
    model, graph, _ = subject
    method = LowRank(model, None, split=split, floor=0.05)
    for layer in graph.layers:
        choices = method.choices(layer)
        for count in choices[:-1].tolist():
            pair = method.module(layer, count)
            held = sum(module.weight.numel() for module in pair)
            assert method.costs(layer, "params")[count] == held < model[int(layer.name)].weight.numel()
            assert method.costs(layer, "bits")[count] == 32 * held


def test_macs_of_two_layers_by_hand(subject):
    model, graph, _ = subject
    layer = graph.layer("2")  # 8 -> 12, 3 x 5, stride (2, 1): 8 x 8 to 4 x 8
    assert LowRank(model, None, split="channel", floor=0.1).costs(layer, "macs")[3] == 3 * 32 * (8 * 15 + 12)
    assert LowRank(model, None, split="spatial", floor=0.1).costs(layer, "macs")[3] == 3 * 32 * (
        8 * 3 + 12 * 5
    )


def test_a_share_of_the_weights_stays_and_training_keeps_the_others_zero(subject, data):
    model, graph, moments = subject
    method, layer = METHODS["fine_grained"](model, moments), graph.layer("2")
    assert method.costs(layer, "params")[25] == model[2].weight.numel() // 4
    assert method.costs(layer, "macs")[25] == layer.positions * model[2].weight.numel() // 4
    task = make_task(
        model, data, method="fine_grained", repair="moments", device="cpu", calibration_images=40
    )
    plan = Plan.dense(task.graph)
    for group in range(len(task.graph.groups)):
        plan = plan.with_group(group, tuple(range(30)))
    small = task.network(plan)
    before = {name: value != 0 for name, value in unconstrained(small).state_dict().items() if value.ndim > 1}
    train(small, data, Recipe(epochs=2, batch_size=20, lr=0.05, shift=0))
    after = unconstrained(small).state_dict()
    assert after.keys() == model.state_dict().keys()
    for name, mask in before.items():
        assert torch.equal(after[name] != 0, mask)
        assert int(mask.sum()) == round(0.3 * mask.numel())


def test_second_order_saliency_by_hand():
    """Of two inputs that always agree, each can stand in for the other: neither is worth much alone."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    moments = type(
        "Moments", (), {"rows": {}, "counts": {"1": 9}, "grams": {"1": torch.eye(3).double()[None]}}
    )()
    moments.grams["1"][0, :2, :2] = 1.0
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=False)).eval(), (3, 1, 1))
    values = curvature(moments, graph.layers[0])[0]
    assert values[0] < 1e-3
    assert values[2] == pytest.approx(1, rel=1e-2)
    assert model[1].weight.shape == (1, 3)


def test_shared_values_are_refitted_on_the_outputs():
    """One value for weights 1 and 3: of two inputs alike their mean, of one input alone its own weight."""
    weight = torch.tensor([[1.0, 3.0]])
    shared = Shared(weight, 1)
    shared.codes, shared.values = torch.zeros_like(shared.codes), torch.tensor([2.0])
    alike, first = torch.ones(1, 2, 2).double(), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).double()
    assert refit_values(weight, shared, alike).tolist() == pytest.approx([2.0], abs=1e-5)
    assert refit_values(weight, shared, first).tolist() == pytest.approx([1.0], abs=1e-5)


def test_weights_that_are_zero_have_no_part_in_the_refit():
    """A pruned weight stays zero and is no reason to move the value of the others."""
    weight = torch.tensor([[1.0, 0.0, 3.0]])
    shared = Shared(weight, 1)
    assert shared(shared.values).tolist() == [[2.0, 0.0, 2.0]]
    inputs_alike = torch.ones(1, 3, 3).double()
    assert refit_values(weight, shared, inputs_alike).tolist() == pytest.approx([2.0], abs=1e-5)


def test_bits_of_shared_weights_by_the_paper_s_formula(subject):
    model, graph, _ = subject
    method, layer = METHODS["weight_sharing"](model, None), graph.layer("5")
    total = model[5].weight.numel()
    assert method.choices(layer).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert method.costs(layer, "bits")[5] == total * 5 + 32 * 32
    assert method.costs(layer, "bits")[9] == total * 32
    assert len(method.module(layer, 3).weight.unique()) <= 8
    assert isinstance(method.module(layer, 3).parametrizations.weight[0], Shared)


PROBLEMS = {
    "fine_grained": {"resource": "params", "target": 0.3, "floor": 0.02},
    "fine_grained in bits": {"method": "fine_grained", "resource": "bits", "target": 0.3, "floor": 0.02},
    "weight_sharing": {"resource": "bits", "target": 0.1},
    "low_rank": {"resource": "macs", "target": 0.6, "floor": 0.05},
    "joint": {"resource": "bits", "target": 0.1},
    "spatial": {"method": "low_rank", "resource": "macs", "target": 0.6, "floor": 0.05, "split": "spatial"},
}


@pytest.fixture(scope="module")
def digits():
    model, card = checkpoints.load(checkpoints.shipped("digits_cnn-digits"))
    return model, card, load("digits")


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_environment_for_all_of_them(digits, name):
    model, _, data = digits
    settings = {"method": name, "repair": "moments"} | PROBLEMS[name]
    env = make_env(model, data, device="cpu", reward_images=50, calibration_images=60, **settings)
    rng = np.random.default_rng(0)
    for _ in range(2):
        _, info = env.reset(seed=0)
        for _ in range(info["decisions"]):
            observation, reward, done, _, info = env.step(rng.random(1, dtype=np.float32))
            assert env.observation_space.contains(observation)
        assert done
        assert np.isfinite(reward)
        counts = [len(kept) for kept in info["plan"].kept]
        assert env.budget.within(counts)
        assert Plan.from_dict(info["plan"].to_dict()) == info["plan"]
        small = env.task.network(info["plan"]).eval()
        assert env.evaluator(info["plan"]).top1 == info["top1"]
        if settings["resource"] != "bits" and settings["method"] == "low_rank":
            assert sum(p.numel() for p in small.parameters()) == info["params"]
    env.close()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_channels_last_network_is_compressed_like_another(digits, name):
    model, _, data = digits
    settings = {"device": "cpu", "reward_images": 50, "calibration_images": 60, "method": name}
    settings |= {"repair": "moments"} | PROBLEMS[name]
    networks = []
    for layout in (torch.contiguous_format, torch.channels_last):
        task = make_env(copy.deepcopy(model).to(memory_format=layout), data, **settings).task
        networks.append(
            task.network(plan_of(task.compressor, [each[-2] for each in task.compressor.choices]))
        )
    images = data.normalise(data["reward"].images)
    with torch.no_grad():
        a, b = (network.eval()(images) for network in networks)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("split", ["channel", "spatial"])
def test_ranks_have_the_dense_layers_type_and_draw_nothing(data, split):
    model = network().double()
    model[0].weight.requires_grad_(False)
    graph = trace(network(), data.shape)
    method, drawn = LowRank(model, None, split=split, floor=0.05), torch.get_rng_state()
    pair = method.module(graph.layers[0], 2)
    assert torch.equal(drawn, torch.get_rng_state())
    assert {each.dtype for each in pair.parameters()} == {torch.float64}
    flags = {name: each.requires_grad for name, each in pair.named_parameters()}
    assert flags == {"first.weight": False, "second.weight": False, "second.bias": True}


def test_a_reward_that_weighs_what_nothing_changes_is_refused(digits):
    model, _, data = digits
    settings = {"method": "weight_sharing", "repair": "none", "resource": "bits", "target": 1.0}
    for reward, told in (("flops", "weighs the MACs"), ("params", "weighs the parameters")):
        with pytest.raises(ValueError, match=told):
            make_env(model, data, device="cpu", reward=reward, **settings)
    env = make_env(model, data, device="cpu", reward="bits", reward_images=20, **settings)
    env.reset(seed=0)
    for _ in env.graph.groups:
        _, reward, _, _, info = env.step(np.zeros(1, np.float32))
    assert reward == pytest.approx((info["top1"] - 1) * np.log(info["bits"]))


def test_the_dense_plan_is_the_dense_network(digits):
    model, _, data = digits
    task = make_task(model, data, method="low_rank", device="cpu", repair="none")
    found = task.evaluator("reward", 50)(Plan.dense(task.graph))
    assert found.agreement == 1.0
    assert found.kl == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"method": "weight_sharing", "resource": "macs", "target": 0.5},
            "no choice of this compressor changes",
        ),
        ({"method": "weight_sharing", "resource": "params", "target": 0.5}, "bits, or compress otherwise"),
        ({"method": "low_rank", "target": 0.001}, "the lowest possible target is"),
    ],
)
def test_budgets_that_a_compressor_cannot_touch(digits, settings, told):
    model, _, data = digits
    with pytest.raises(BudgetError, match=told):
        make_env(model, data, device="cpu", repair="none", **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "lowrank"}, "channels, fine_grained, weight_sharing, low_rank, joint"),
        ({"method": "joint", "repair": "sequential"}, "with method=joint give repair=moments"),
        ({"method": "joint", "repair": "staged"}, "repair=staged is for channels alone"),
        ({"method": "low_rank", "split": "both"}, "channel, spatial"),
        ({"method": "weight_sharing", "start": "kmeans"}, "linear, density, random"),
        ({"method": "fine_grained", "repair": "sequential"}, "with method=fine_grained give repair=moments"),
        ({"method": "fine_grained", "repair": "staged"}, "give repair=moments or repair=none"),
        ({"method": "fine_grained", "floor": 0.0}, "floor is 0.0, it is at least 1e-06"),
    ],
)
def test_settings_that_cannot_be(digits, settings, told):
    model, _, data = digits
    with pytest.raises(ValueError, match=told):
        make_task(model, data, device="cpu", **{"repair": "moments"} | settings)


def test_bits_are_no_resource_of_channels(digits):
    model, _, data = digits
    with pytest.raises(ValueError, match="macs, params"):
        make_env(model, data, device="cpu", resource="bits", repair="none", order="magnitude")


def test_a_plan_of_another_compressor_is_refused(digits):
    model, _, data = digits
    tasks = [
        make_task(model, data, method=name, device="cpu", repair="none") for name in ("channels", "low_rank")
    ]
    with pytest.raises(PlanError, match="was made for"):
        tasks[1].network(Plan.dense(tasks[0].graph))


def test_a_layer_that_is_kept_whole_is_no_decision(digits):
    model, _, data = digits
    whole = make_task(model, data, method="weight_sharing", device="cpu", repair="none")
    name = whole.compressor.layers[0].name
    less = make_task(model, data, method="weight_sharing", device="cpu", repair="none", keep_whole=[name])
    assert [layer.name for layer in less.compressor.layers] == [
        layer.name for layer in whole.compressor.layers[1:]
    ]


@pytest.mark.parametrize("method", ["weight_sharing", "joint"])
def test_a_layer_may_be_kept_whole_by_its_second_name(digits, method):
    model, _, data = digits
    model = copy.deepcopy(model)
    name = next(name for name, each in reversed(list(model.named_modules())) if isinstance(each, nn.Linear))
    model.alias = model.get_submodule(name)
    settings = {"method": method, "device": "cpu", "repair": "none", "order": "magnitude"}
    by_first, by_second, free = (
        len(make_task(model, data, **settings, keep_whole=whole).compressor.choices)
        for whole in ([name], ["alias"], [])
    )
    assert by_first == by_second < free


def test_a_checkpoint_of_ranks_is_built_again(digits, tmp_path):
    model, card, data = digits
    task = make_task(model, data, method="low_rank", device="cpu", repair="none", floor=0.05)
    plan = Plan.dense(task.graph)
    for group, choices in enumerate(task.compressor.choices):
        plan = plan.with_group(group, task.compressor.choose(group, int(choices[0])))
    small = task.network(plan).eval()
    checkpoints.save(tmp_path / "net", small, dataclasses.replace(card, plan=task.described(plan)))
    again, _ = checkpoints.load(tmp_path / "net")
    images, _ = next(data.batches("test", 8))
    assert torch.equal(again(images), small(images))


@pytest.mark.parametrize(
    ("ranks", "split"),
    [
        ({"0": 2}, "both"),
        ({"9": 2}, "channel"),
        ({"1": 2}, "channel"),
        ({"0": 0}, "channel"),
        ({"0": "2"}, "channel"),
        ([], "channel"),
    ],
)
def test_ranks_of_a_file_that_cannot_be(ranks, split):
    with pytest.raises(RankError):
        factored(network(), ranks, split)


def test_and_they_are_told_as_those_of_a_checkpoint(digits, tmp_path):
    model, card, _ = digits
    checkpoints.save(
        tmp_path / "net", model, dataclasses.replace(card, plan={"ranks": {"no": 1}, "split": "channel"})
    )
    with pytest.raises(CheckpointError, match=r"net\.json: plan: no is no convolution"):
        checkpoints.load(tmp_path / "net")
