"""Plans of channels and bits: their cost, and the networks that they give."""

import numpy as np
import pytest
import torch
from torch import nn

from agents.lattice import Lattice
from amc_env import zoo
from amc_env.budget import Budget
from amc_env.building import make_task
from amc_env.compressors.channels import Channels, magnitude_orders
from amc_env.compressors.constraints import unconstrained
from amc_env.compressors.joint import Joint
from amc_env.data.tensors import from_tensors
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from experiments.recording.plans import groups

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (120, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, 4, (120,), generator=GENERATOR)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    ).eval()  # fmt: skip
    data = from_tensors(IMAGES, LABELS, IMAGES[:20], LABELS[:20], seed=0)
    return make_task(
        model, data, method="joint", repair="moments", device="cpu", calibration_images=40, round_to=1
    )


def plan_of(task, counts):
    plan = Plan.dense(task.graph)
    for group, count in enumerate(counts):
        plan = plan.with_group(group, task.compressor.choose(group, count))
    return plan


def test_bits_follow_the_channels_that_their_layer_reads_first(task):
    assert [len(group) for group in task.graph.groups] == [9, 4, 9, 8, 9]
    assert [task.graph.consumer(group).name for group in task.graph.groups] == ["0", "2", "2", "6", "6"]


def test_decisions_on_bits_are_named_apart_from_those_on_channels(task):
    assert [group["layer"] for group in groups(task.graph)] == ["0 bits", "2", "2 bits", "6", "6 bits"]


def test_a_plan_costs_codes_codebooks_and_what_stays_as_it_is(task):
    prices = task.compressor.prices("bits")
    dense = 32 * (3 * 8 * 9 + 8 + 4 * 16 * 9 + 16 + 64 * 4 + 4)
    assert prices([9, 4, 9, 8, 9]) == dense
    # half of the first channels at 3 bits, the second layer at 2, half of its channels left whole
    first, second, third = 3 * 4 * 9, 2 * 8 * 9, 32 * 4
    asked = 3 * first + 8 * 32 + 2 * second + 4 * 32 + 32 * third + 32 * (4 + 8 + 4)
    assert prices([3, 2, 2, 4, 9]) == asked
    columns = prices.column([3, 2, 2, 4, 9], 2, task.compressor.choices[2])
    assert columns[1] == asked
    assert columns[2] == asked + second + 4 * 32


def test_the_network_is_cut_and_its_layers_have_few_values(task):
    plan = plan_of(task, [3, 2, 2, 4, 9])
    network = task.network(plan).eval()
    plain = unconstrained(network)
    assert plain[0].weight.shape == (4, 3, 3, 3)
    assert plain[2].weight.shape == (8, 2, 3, 3)
    assert [len(plain[at].weight.unique()) <= 2**bits for at, bits in ((0, 3), (2, 2))] == [True, True]
    assert len(plain[6].weight.unique()) == 8 * 4 * 4
    images = torch.randn(5, 3, 8, 8)
    networks = task.evaluator("reward")._networks
    torch.testing.assert_close(networks.network(plan)(images), network(images))
    dense = networks.network(Plan.dense(task.graph))
    torch.testing.assert_close(dense(images), task.model(images))


def test_costs_of_single_decisions_do_not_depend_on_the_way_they_are_asked(task):
    rng = np.random.default_rng(0)
    for resource in ("bits", "params", "macs"):
        prices = task.compressor.prices(resource)
        for _ in range(20):
            counts = np.array([rng.choice(choices) for choices in task.compressor.choices])
            group = int(rng.integers(len(counts)))
            for choice, cost in zip(
                task.compressor.choices[group],
                prices.column(counts, group, task.compressor.choices[group]),
                strict=True,
            ):
                changed = counts.copy()
                changed[group] = choice
                assert prices(changed) == cost


def test_plans_within_the_described_budget_are_mostly_within_the_budget():
    """Bits times two widths are no sum over pairs: the costs that an agent sees are an estimate."""
    model = zoo.build("digits_cnn", classes=4, in_channels=3).eval()
    graph = trace(model, (3, 8, 8))
    compressor = Joint(Channels(graph, magnitude_orders(model, graph)))
    budget = Budget(compressor, {"bits": 0.1})
    assert not budget.cost_tables["exact"]
    lattice = Lattice(budget.keeps, budget.cost_tables)
    plans = lattice.random(300, np.random.default_rng(0))
    assert lattice.within(plans).all()
    counts = [own[plans[:, at]] for at, own in enumerate(budget.choices)]
    spent = budget.limits[0].prices(np.stack(counts, axis=1)) / budget.limit
    assert (spent <= 1).mean() > 0.5
    assert 0.9 < np.median(spent) < 1.1


def test_refitted_values_come_closer_than_those_of_k_means(task):
    plan = plan_of(task, [1, 4, 1, 8, 1])
    bare = make_task(
        task.model, task.data, method="joint", device="cpu", repair="none", order="magnitude", round_to=1
    )
    images = torch.cat([batch for batch, _ in task.data.batches("calibration", 50)])
    with torch.no_grad():
        wanted = task.model(images)
        errors = [
            float((made.network(plan).eval()(images) - wanted).square().mean()) for made in (task, bare)
        ]
    assert errors[0] < errors[1]
