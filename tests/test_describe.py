"""Descriptions of networks against hand-computed values and torch's own counter, in each format."""

import csv
import io
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from networks import SHAPE, network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card
from amc_env.compressors.surgery import cut
from amc_env.data.specs import SPECS
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from experiments import describe as command
from experiments.analysis import layers
from experiments.analysis.layers import Times
from experiments.delivery import describe

FASHION = SPECS["fashion_mnist"].shape


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Call the entry point with a command line; its exit status."""
    monkeypatch.setattr(sys, "argv", ["command", "repeats=1", "warmup=0", *words])
    status = 0
    try:
        command.main()
    except SystemExit as left:
        status = int(str(left.code))
    return status


@cache
def traced(name):
    model = zoo.build(name, classes=10, in_channels=1).eval()
    return model, trace(model, FASHION)


def rows(graph):
    """As printed, with layers that take 2 ms each and 1 ms for the rest."""
    return layers.rows(graph, Times({layer.name: 2.0 for layer in graph.layers}, 1.0))


def first_kind(*modules, shape=(6, 8, 8)):
    graph = trace(nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape)
    return layers.kind(graph.layers[0])


def test_a_chain_by_hand():
    """The chain: 1 -> 8 -> 12 (stride 2) -> 16 -> 4, on images of 8 x 8."""
    *convolutions, linear, rest, total = rows(trace(network("chain"), SHAPE))
    facts = [(r.kind, r.kernel, r.input, r.output, r.macs, r.reads, r.writes) for r in convolutions]
    assert facts == [
        ("standard", (3, 3), (1, 8, 8), (8, 8, 8), 64 * 9 * 8, (None,), (0,)),
        ("standard", (3, 3), (8, 8, 8), (12, 4, 4), 16 * 9 * 8 * 12, (0,), (1,)),
        ("standard", (3, 3), (12, 4, 4), (16, 4, 4), 16 * 9 * 12 * 16, (1,), (2,)),
    ]
    assert (linear.kind, linear.kernel, linear.input, linear.output) == ("linear", (), (16,), (4,))
    assert (linear.macs, linear.params, linear.reads, linear.writes) == (64, 68, (2,), (None,))
    assert (rest.macs, rest.params, rest.ms) == (0, 2 * (8 + 12 + 16), 1.0)  # batch norms
    assert (total.input, total.output, total.ms) == (SHAPE, (4,), 4 * 2.0 + 1.0)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(6, 10, 3), "standard"),
        (nn.Conv2d(6, 10, 1), "pointwise"),
        (nn.Conv2d(6, 10, 1, groups=2), "grouped"),
        (nn.Conv2d(6, 6, 3, groups=6), "depthwise"),
        (nn.ConvTranspose2d(6, 10, 2), "transposed"),
    ],
)
def test_kinds(module, kind):
    assert first_kind(module) == kind


@pytest.mark.parametrize("name", ["plain20", "mobilenet_v1", "shufflenet_v2"])
def test_sums_are_those_of_torch(name):
    model, graph = traced(name)
    *parts, total = rows(graph)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *FASHION))
    assert sum(row.macs for row in parts) == total.macs == counter.get_total_flops() // 2
    assert sum(row.params for row in parts) == total.params == sum(p.numel() for p in model.parameters())
    for row in parts[:-1]:
        assert row.params == sum(p.numel() for p in model.get_submodule(row.name).parameters())
    assert sum(row.macs_percent for row in parts) == pytest.approx(total.macs_percent, abs=0.01) == 100
    assert sum(row.params_percent for row in parts) == pytest.approx(total.params_percent, abs=0.01) == 100


def test_channels_of_several_decisions_and_such_that_stay():
    class Concat(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.both = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 6, 1), nn.Conv2d(12, 3, 1)

        def forward(self, x):
            return self.both(torch.cat([self.one(x), x, self.two(x)], 1)).mean((2, 3))

    graph = trace(Concat(), (2, 4, 4))
    assert layers.decisions(graph, graph.layer("both").reads) == {0: 4, None: 2, 1: 6}
    assert rows(graph)[2].reads == (0, None, 1)


def test_depthwise_separable_pairs():
    """MobileNet V1: pairs of 9 c + c n MACs a position where a standard convolution takes 9 c n."""
    assert layers.separable(traced("plain20")[1]) is None
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    found = layers.separable(trace(net, (1, 8, 8)))
    pair = 9 * 8 + 8 * 16
    assert found is not None
    assert (found.pairs, found.standard) == (1, 9 * 8 * 16 / pair)
    assert found.macs_percent == pytest.approx(100 * 64 * pair / (64 * (9 * 8 + pair) + 64), abs=1e-4)
    found = layers.separable(traced("mobilenet_v1")[1])
    assert found is not None
    assert found.pairs == 13


def test_the_squeeze_between_a_pair_is_no_part_of_it():
    class Excited(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
            self.pointwise = nn.Conv2d(8, 16, 1)

        def forward(self, x):
            x = self.depthwise(x)
            x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True))).sigmoid()
            return self.pointwise(x).mean((2, 3))

    found = layers.separable(trace(nn.Sequential(nn.Conv2d(1, 8, 1), Excited()), (1, 6, 6)))
    assert found is not None
    assert (found.pairs, found.standard) == (1, round(9 * 8 * 16 / (9 * 8 + 8 * 16), 4))


def test_times_are_medians_over_the_timed_passes_with_all_calls_together(monkeypatch: pytest.MonkeyPatch):
    clock, shapes = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Takes(nn.Module):
        def __init__(self, *ms):
            super().__init__()
            self.ms = iter(ms)

        def forward(self, x):
            shapes.append(tuple(x.shape))
            clock[0] += next(self.ms) / 1e3
            return x

    once, twice, unnamed = (
        Takes(0, 90, 1, 7, 2),
        Takes(0, 0, 90, 90, 1, 2, 2, 2, 30, 30),
        Takes(0, 90, 5, 4, 6),
    )
    net = nn.Sequential(once, twice, unnamed, twice).train()
    times = describe.measure(net, ["0", "1"], (3, 4, 4), repeats=3, warmup=1)
    assert set(shapes) == {(1, 3, 4, 4)}
    assert times.layers == pytest.approx({"0": 2, "1": 4})
    assert times.rest == pytest.approx(5)
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_markdown_is_aligned_and_csv_and_json_read_back():
    _, graph = traced("mobilenet_v1")
    table = rows(graph)
    lines = layers.as_markdown(table).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + len(table)
    assert re.fullmatch(r"\| -+ \| -+ \| -+ \| -+ \| -+ \|( -+: \|){5} -+ \| -+ \|", lines[1])
    assert [cell.strip() for cell in lines[4].split("|")[1:7]] == [
        "features.1.1.0", "pointwise", "1x1", "32x28x28", "64x28x28", "1,605,632",
    ]  # fmt: skip
    read = list(csv.DictReader(io.StringIO(layers.as_csv(table))))
    content = json.loads(layers.as_json(table, graph, "mobilenet_v1"))
    for row, line, entry in zip(
        table, read, [*content["layers"], content["rest"], content["total"]], strict=True
    ):
        assert (line["name"], int(line["macs"]), float(line["ms"])) == (row.name, row.macs, row.ms)
        assert tuple(map(int, filter(None, line["input"].split("x")))) == tuple(entry["input"]) == row.input
        reads = tuple(None if index == "-" else int(index) for index in line["reads"].split())
        assert reads == tuple(entry["reads"]) == row.reads
        assert (entry["params"], entry["macs_percent"]) == (row.params, row.macs_percent)
    assert content["separable"]["pairs"] == 13
    assert content["decisions"][0] == {"index": 0, "channels": 32, "read_by": ["features.1.1.0"]}


def test_picture_has_a_bar_as_high_as_each_share_and_a_line_a_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heights, lines = {}, []
    bar, plot = Axes.bar, Axes.plot

    def noted_bar(self, at, height, *args, **kwargs):
        heights[at] = heights.get(at, 0) + height
        return bar(self, at, height, *args, **kwargs)

    def noted_plot(self, x, y, **kwargs):
        lines.append((x, y[0], kwargs["color"]))
        return plot(self, x, y, **kwargs)

    monkeypatch.setattr(Axes, "bar", noted_bar)
    monkeypatch.setattr(Axes, "plot", noted_plot)
    graph = trace(network("chain"), SHAPE)
    layers.draw(graph, tmp_path / "layers.png")
    shares = [row.macs_percent for row in rows(graph)[:4]]
    assert list(heights.values()) == pytest.approx([share for share in shares for _ in "rw"])
    assert [(x, y) for x, y, _ in lines] == [([0.21, 0.79], 0), ([1.21, 1.79], 1), ([2.21, 2.79], 2)]
    assert len({colour for *_, colour in lines}) == 3
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("model=vgg16 --format csv seed=1", "model=vgg16 format=csv seed=1"),
        ("--format=json --picture a=b.png", "format=json picture=a=b.png"),
        ("--format", "format="),
        ("format=csv --cfg job --help", "format=csv --cfg job --help"),
        ("--formats csv", "--formats csv"),
    ],
)
def test_dashes_are_understood(typed, expected):
    assert command.keys(typed.split()) == expected.split()


def test_the_command_in_each_format(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    picture = tmp_path / "new" / "layers.png"
    assert run(monkeypatch, "model=lenet5", "data=fashion_mnist", f"picture={picture}") == 0
    out = capsys.readouterr().out
    assert out.startswith("lenet5 on an image of 1x28x28, 10 classes:\n\n| layer ")
    assert "\nno depthwise-separable pairs\n" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, "model=lenet5", "--format", "csv") == 0
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run(monkeypatch, "model=lenet5", "format=json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in read[:-2]] == [row["name"] for row in content["layers"]]
    assert int(read[-1]["macs"]) == content["total"]["macs"]
    assert not cache.exists()  # no data were fetched


def test_networks_from_elsewhere_and_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["shape=[3,32,32]", "classes=7", "format=json"]
    assert run(monkeypatch, "model=torchvision/resnet18", *words) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert (total["input"], total["output"]) == ([3, 32, 32], [7])
    words = ["model=import", "target=amc_env.zoo.tiny:digits_cnn", "data=digits"]
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr().out.startswith("amc_env.zoo.tiny:digits_cnn on an image of 1x8x8, 10 classes")
    for name in ("a", "b", "c", ".ipynb_checkpoints"):
        (tmp_path / "train" / name).mkdir(parents=True)
    folder = ["data=imagefolder", f"data.root={tmp_path}", "data.options.size=28", "format=json"]
    assert run(monkeypatch, "model=lenet5", *folder) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert (total["input"], total["output"]) == ([3, 28, 28], [3])


def test_a_checkpoint_of_a_smaller_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model = zoo.build("digits_cnn", classes=10, in_channels=1)
    graph = trace(model, (1, 8, 8))
    plan = Plan.dense(graph).with_group(0, (0, 3, 5))
    card = Card("digits_cnn", 10, 1, "digits", (1, 8, 8), 0, "abc", plan=plan.to_dict())
    weights.save(tmp_path / "small", cut(model, graph, plan), card)
    words = ["model=digits_cnn", "data=digits", "format=json", f"model.checkpoint={tmp_path}/small"]
    assert run(monkeypatch, *words) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["output"] == [3, 8, 8]


class Attention(nn.Module):
    def __init__(self, classes, in_channels):
        super().__init__()
        self.mix = nn.MultiheadAttention(in_channels, 1, batch_first=True)
        self.head = nn.Linear(in_channels, classes)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.head(self.mix(x, x, x)[0].mean(1))


def attention(classes, in_channels):
    return Attention(classes, in_channels)


def bare(classes, in_channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("format=xml", "format is 'xml'; there are md, csv, json"),
        ("--format", "format is empty: give it as format=VALUE"),
        ("picture=layers.txt", "picture is 'layers.txt'; its name ends in .png or .svg or .pdf"),
        ("model=lenet5 picture={tmp}/file/layers.png", "the picture cannot be written ("),
        ("shape=[28,28]", "shape is [28, 28]; it is [C,H,W], each at least 1"),
        ("shape=[1,0,28]", "shape is 0, it is at least 1"),
        ("repeats=0", "repeats is 0, it is at least 1"),
        ("model=lenet5 shape=[1,2,2]", "the network does not take images of 1x2x2"),
        ("model=import target=test_describe:attention", "'multi_head_attention_forward' of 'mix'"),
        ("model=import target=test_describe:bare shape=[10,8,8]", "the network has neither a convolution"),
        ("model=import", "no value for model.options.target"),
        ("model=lenet5 data=imagefolder data.root={tmp}", "data.root is {tmp}, but there is no {tmp}/train"),
        ("model=lenet5 model.checkpoint={tmp}/none", "model.checkpoint is {tmp}/none, but there is no"),
        ("formt=csv", "no key 'formt' in the configuration (did you mean format?)"),
    ],
)
def test_what_cannot_be_is_told_in_one_message(
    words, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    assert run(monkeypatch, *words.format(tmp=tmp_path).split()) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {message.format(tmp=tmp_path)}")
    assert told.err.count("\n") == 1
    assert told.out == ""
