"""A part of a network that returns no logits, measured by a metric of the user's own."""

import json

import pytest
import torch
from torch import nn

from amc_env import checkpoints as weights
from amc_env.building import make_env, make_task
from amc_env.card import Card
from amc_env.compressors.masking import masked
from amc_env.compressors.surgery import cut
from amc_env.compressors.trial import check, random_plan
from amc_env.data.own import OwnData
from amc_env.data.splits import CACHE, DataError
from amc_env.data.tensors import from_tensors
from amc_env.graph.labels import TraceError
from amc_env.graph.part import observe
from amc_env.graph.trace import trace
from amc_env.metrics import EvaluationError
from amc_env.scoring import score
from experiments.cli.config import ConfigError, plain
from experiments.cli.problem import searched
from experiments.delivery.export import export
from experiments.delivery.rehearsal import Deliverable, rehearse
from experiments.delivery.runtimes import onnx_run, restored
from experiments.recording.record import RunRecord


class Backbone(nn.Module):
    """Takes a list and a keyword, returns a dict with a list in it."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.high, self.low = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, both, scale=None):
        x = torch.relu(self.stem(both[0] + both[1]) * scale)
        return {"high": self.high(torch.relu(self.deep(x))), "others": [self.low(x)]}


class Detector(nn.Module):
    """Takes a list of images of any form, returns a list of dicts."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Conv2d(4, 5, 3)

    def forward(self, images):
        x = torch.stack(list(images))
        found = self.backbone([x, x.flip(-1)], scale=2.0)
        return [{"scores": each} for each in self.head(found["high"] + found["others"][0]).amax((2, 3))]


def detector():
    torch.manual_seed(0)
    return Detector().eval()


def batches(seed):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return [(list(images[:4]), ["a"] * 4), (list(images[4:]), ["b"] * 2)]


DATA = OwnData(
    "boxes",
    5,
    {name: batches(seed) for seed, name in enumerate(("calibration", "reward", "selection", "test"))},
)


def kept(network, parts):
    """How much of the dense network's scores is left."""
    dense, lost, whole = detector(), 0.0, 0.0
    for images, targets in parts:
        assert len(images) == len(targets)
        for found, expected in zip(network(images), dense(images), strict=True):
            lost += float((found["scores"] - expected["scores"]).square().sum())
            whole += float(expected["scores"].square().sum())
    return 1 - lost / whole


def test_a_part_is_traced_as_the_network_calls_it_and_its_channels_outside_stay():
    model = detector()
    given = observe(model, "backbone", DATA.splits["reward"][0][0])
    assert json.loads(json.dumps(given.to_dict())) == given.to_dict()
    graph = trace(model, (3, 8, 8), given=given)
    assert [layer.name for layer in graph.layers] == [
        f"backbone.{n}" for n in ("stem", "deep", "high", "low")
    ]
    assert [len(group) for group in graph.groups] == [8, 6]
    assert graph.fixed_params == 0
    plan, images = random_plan(graph), batches(9)[0][0]
    assert check(model, graph, plan, images) < 1e-5
    small, full = cut(model, graph, plan), masked(model, graph, plan)
    for found, expected in zip(small(images), full(images), strict=True):
        torch.testing.assert_close(found["scores"], expected["scores"])
    assert all(
        torch.equal(a, b) for a, b in zip(small.head.parameters(), model.head.parameters(), strict=True)
    )


def test_norms_outside_of_the_part_see_what_they_did():
    model, images = detector(), batches(9)[0][0]
    model.head = nn.Sequential(nn.GroupNorm(2, 4), model.head)
    graph = trace(model, (3, 8, 8), given=observe(model, "backbone", images))
    assert check(model, graph, random_plan(graph), images) < 1e-5


@pytest.mark.parametrize("repair", ["moments", "sequential", "none"])
@pytest.mark.parametrize("order", ["elimination", "magnitude"])
def test_a_part_is_compressed_in_an_episode(repair, order, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    env = make_env(
        detector(), DATA, part="backbone", metric=kept, target=0.6, round_to=1, repair=repair, order=order
    )
    assert env.budget.dense == 64 * (27 * 8 + 72 * 6 + 24 + 32)
    env.reset(seed=0)
    ended = False
    while not ended:
        _, reward, ended, _, info = env.step([0.5])
    assert info["macs"] <= 0.6 * env.budget.dense
    assert reward == info["top1"] - 1
    assert "kl" not in info
    assert info["n_images"] == 6
    assert info["std_error"] > 0
    small = env.task.network(info["plan"]).eval()
    again = score(small, kept, DATA.splits["reward"], "reward")
    assert again.top1 == pytest.approx(info["top1"], abs=1e-4)


def test_repair_of_a_part_makes_up_for_what_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    found = []
    for repair in ("none", "moments", "sequential"):
        task = make_task(detector(), DATA, part="backbone", metric=kept, round_to=1, repair=repair)
        plan = random_plan(task.graph)
        for group in task.graph.groups:
            plan = plan.with_group(group.index, task.compressor.choose(group.index, len(group) // 2))
        found.append(task.evaluator("test")(plan).top1)
    assert found[0] < min(found[1:])


def test_a_metric_with_an_error_of_its_own_is_asked_once():
    calls = []

    def own(network, parts):
        calls.append(len(parts))
        return 0.5, 0.25

    found = score(detector(), own, DATA.splits["test"], "test")
    assert (found.top1, found.std_error, found.n_images, calls) == (0.5, 0.25, 6, [2])


def test_the_spread_is_that_between_the_parts():
    values = iter([0.5, 0.2, 0.8])
    found = score(detector(), lambda network, parts: next(values), DATA.splits["test"], "test")
    assert found.std_error == pytest.approx(0.3)  # deviation of 0.2 and 0.8 is 0.3 times the root of 2
    assert score(detector(), lambda n, p: torch.tensor(0.5), DATA.splits["test"][:1], "test").std_error == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("many", "gives a str, not a number|gives a str; wanted"),
        (float("nan"), "gives nan; give a finite number"),
        ((1, 2, 3), "gives 3 values"),
        (torch.ones(3), "gives a Tensor; wanted"),
    ],
)
def test_a_metric_that_gives_no_number(given, message):
    with pytest.raises(EvaluationError, match=message):
        score(detector(), lambda network, parts: given, DATA.splits["test"], "test")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("bakbone", "no part 'bakbone'; did you mean backbone"),
        ("", "no part ''; there are backbone, head"),
        ("backbone.stem", "nothing to decide"),
    ],
)
def test_a_part_that_cannot_be_compressed(part, message):
    with pytest.raises(TraceError, match=message):
        make_task(detector(), DATA, part=part, metric=kept)


def test_a_part_that_is_called_twice_or_shared_is_refused():
    model, images = detector(), DATA.splits["test"][0][0]
    model.head = nn.Sequential(model.head, nn.Identity())
    model.extra = model.backbone.low
    with pytest.raises(TraceError, match="'extra' is a second name"):
        observe(model, "backbone", images)
    named = detector()
    named.head = nn.Sequential(shared := nn.Sequential(nn.Conv2d(4, 4, 1)), shared, named.head)
    with pytest.raises(TraceError, match=r"'head\.1' is a second name for a module of 'head\.0'"):
        observe(named, "head.0", images)
    with pytest.raises(TraceError, match=r"calls its part 'backbone' 2 times"):
        observe(Twice().eval(), "backbone", images)
    with pytest.raises(TraceError, match=r"'low' of 'backbone' is called from outside the part"):
        observe(Outside().eval(), "backbone", images)


class Twice(Detector):
    def forward(self, images):
        return super().forward(images), super().forward(images)


class Outside(Detector):
    def forward(self, images):
        return super().forward(images), self.backbone.low(torch.zeros(1, 8, 8, 8))


def test_what_does_not_fit_a_metric_is_told_before_any_work():
    with pytest.raises(ValueError, match=r"reward is kl, which needs logits; .* error, flops"):
        make_env(detector(), DATA, part="backbone", metric=kept, reward="kl")
    with pytest.raises(DataError, match=r"gives list for an image.*metric=module:function"):
        make_task(detector(), DATA, part="backbone")
    with pytest.raises(TraceError, match=r"not one tensor of logits .*part=NAME"):
        make_task(detector(), DATA, metric=kept)
    with pytest.raises(DataError, match="the test split holds no image"):
        OwnData("boxes", 5, {**DATA.splits, "test": []})
    with pytest.raises(DataError, match=r"reward is a list of batches, .* give list\(loader\)"):
        OwnData("boxes", 5, {**DATA.splits, "reward": DATA.splits["reward"][0]})
    with pytest.raises(DataError, match="reward is a list of batches"):
        OwnData("boxes", 5, {**DATA.splits, "reward": iter(DATA.splits["reward"])})
    with pytest.raises(DataError, match="no split 'test'"):
        OwnData("boxes", 5, {name: DATA.splits[name] for name in ("calibration", "reward", "selection")})


def test_a_classifiers_part_needs_no_metric():
    images = torch.arange(60 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(60, 3, 8, 8)
    data = from_tensors(images, torch.arange(60) % 4, images[:12], torch.arange(12) % 4, seed=0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3))
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    task = make_task(model, data, part="0", repair="none", order="magnitude", round_to=1)
    assert [len(group) for group in task.graph.groups] == [6]
    assert task.tunable
    assert task.evaluator("test")(random_plan(task.graph)).n_images == 12


def test_a_part_is_delivered_and_read_in_a_clean_process(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    task = make_task(detector(), DATA, part="backbone", metric=kept, round_to=1, repair="none")
    lines = []
    assert rehearse(task, tuned=True, say=lines.append) == Deliverable("backbone", (".pt2", ".onnx"))
    assert "no class labels" in lines[0]
    assert "will hold 'backbone' alone" in lines[1]
    small = task.network(plan := random_plan(task.graph)).eval()
    card = Card(
        "import", 5, 3, "boxes", (3, 8, 8), 0, "0", {"target": f"{__name__}:build"}, plan=plan.to_dict(),
        given=task.graph.given.to_dict(),
    )  # fmt: skip
    images = DATA.splits["test"][0][0]
    written = export(small, card, tmp_path / "net", images, part="backbone")
    x = torch.stack(images)
    expected = small.backbone([x, x.flip(-1)], scale=2.0)
    for found, truth in zip(
        onnx_run(written.onnx, [x, x.flip(-1)]), (expected["high"], *expected["others"]), strict=True
    ):
        torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    again, card = restored(tmp_path / "net", f"{__name__}:build")
    for found, truth in zip(again(images), small(images), strict=True):
        assert torch.equal(found["scores"], truth["scores"])
    assert weights.read_card(tmp_path / "net").given["part"] == "backbone"


def build(classes, in_channels):
    return detector()


def test_a_search_of_a_part_is_tuned_as_that_part_and_one_by_an_own_metric_is_not(composed, tmp_path):
    settings = plain(composed("config", "experiment=digits", "part=features"))
    RunRecord.create(tmp_path / "part", settings, seeds={})
    assert searched(tmp_path / "part", None).part == "features"
    RunRecord.create(tmp_path / "metric", settings | {"metric": "my:metric"}, seeds={})
    with pytest.raises(ConfigError, match="measured by functions of your own"):
        searched(tmp_path / "metric", None)
