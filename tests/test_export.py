"""Exported files are read back alike by three runtimes, and each kind of wrong file is refused."""

import json
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from rewriting import change
from torch import nn

from amc_env import checkpoints as weights
from amc_env import zoo
from amc_env.card import Card, CheckpointError
from amc_env.compressors.surgery import cut
from amc_env.graph.trace import trace
from amc_env.plan import Plan
from experiments.delivery.export import Exported, ExportError, agree, export, write_onnx
from experiments.delivery.runtimes import RuntimeFileError, _runnable, onnx_run, read
from experiments.delivery.sums import SumsError

CARD = Card("digits_cnn", 10, 1, "digits", (1, 8, 8), 0, "abc")


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def small() -> tuple[nn.Module, Card]:
    """A cut network and its card."""
    dense = zoo.build("digits_cnn", classes=10, in_channels=1).eval()
    graph = trace(dense, (1, 8, 8))
    plan = Plan.dense(graph).with_group(0, (0, 2, 3)).with_group(2, tuple(range(0, 32, 2)))
    return cut(dense, graph, plan).eval(), replace(CARD, plan=plan.to_dict())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    network, card = small()
    before = {name: value.clone() for name, value in network.train().state_dict().items()}
    written = export(network, card, tmp_path_factory.mktemp("files") / "net-w0.5", images(8))
    assert network.training  # and no weight was moved
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    return written


def stem(exported: Exported) -> Path:
    return exported.weights.with_suffix("")


def test_five_files_of_one_stem(exported: Exported) -> None:
    assert [path.name for path in exported.files] == [
        f"net-w0.5.{suffix}" for suffix in ("safetensors", "json", "onnx", "pt2", "sha256")
    ]
    assert sorted(exported.files) == sorted(stem(exported).parent.iterdir())
    assert 0 <= exported.difference < 1e-5


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".json", ".onnx", ".pt2"])
@pytest.mark.parametrize("count", [1, 5])
def test_each_computes_what_the_network_does_for_any_number_of_images(
    exported: Exported, suffix: str, count: int
) -> None:
    network, card = small()
    found = read(f"{stem(exported)}{suffix}", trust=suffix == ".pt2")
    assert (found.shape, found.classes) == ((1, 8, 8), 10)
    assert found.runtime == {".onnx": "onnx", ".pt2": "pt2"}.get(suffix, "torch")
    assert (found.card and found.card.plan) == (card.plan if found.runtime == "torch" else None)
    with torch.no_grad():
        expected = network(images(count, seed=1))
    torch.testing.assert_close(found.forward(images(count, seed=1)), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.module()(images(count, seed=1)), expected, atol=1e-5, rtol=1e-4)


def test_no_file_names_a_source_file(exported: Exported) -> None:
    assert exported.pt2 is not None
    with ZipFile(exported.pt2) as archive:
        content = b"".join(map(archive.read, archive.namelist()))
    for file in (torch.__file__, zoo.__file__):
        assert str(Path(file).parent).encode() not in content


class Anything(nn.Module):
    """A forward whose signature names nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        return self.net(*args) * kwargs.get("scale", 1)


def test_a_forward_of_any_arguments_is_written_for_any_number_of_images(tmp_path: Path) -> None:
    network = Anything().eval()
    file = write_onnx(network, (1, 8, 8), tmp_path / "net.onnx")
    for count in (1, 5):
        agree(onnx_run(file, [images(count)]), network(images(count)).detach(), file)


class InPlace(nn.Module):
    """A part that changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.conv = nn.Parameter(torch.rand(4, 1, 1)), nn.Conv2d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += self.place
        return self.conv(x)


def test_a_part_that_changes_its_input_in_place_is_compared_on_what_it_was_given(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), InPlace(), nn.Flatten(), nn.Linear(48, 3)).eval()
    card = Card("import", 3, 1, "own", (1, 8, 8), 0, "none")
    found = export(network, card, tmp_path / "net", images(2), part="1")
    assert found.onnx is not None
    assert found.pt2 is not None


def test_files_that_compute_something_else_are_told() -> None:
    expected = torch.tensor([[1.0, -4.0]])
    assert agree(expected + 2e-4, expected, Path("x")) == pytest.approx(5e-5, rel=1e-2)
    for wrong in (expected + 1e-3, expected * float("nan")):
        with pytest.raises(ExportError, match=r"x\.onnx gives logits that differ"):
            agree(wrong, expected, Path("x.onnx"))


def test_a_missing_file_lists_what_is_there(exported: Exported, tmp_path: Path) -> None:
    folder = stem(exported).parent
    for name in ("other", "other.onnx", "other.pt2", "net-w0"):
        with pytest.raises(
            RuntimeFileError, match=r"no network .*: in .* there are net-w0\.5, net-w0\.5\.onnx"
        ):
            read(folder / name)
    with pytest.raises(RuntimeFileError, match="holds no network"):
        read(tmp_path / "other")


@pytest.mark.parametrize("name", ["net.pth", "net"])
def test_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(
        RuntimeFileError, match=r"none of the files .*\.safetensors and \.json.*\.onnx, \.pt2 or \.packed"
    ):
        read(tmp_path / name)


@pytest.mark.parametrize(("suffix", "word"), [(".onnx", "ONNX"), (".pt2", r"torch\.export")])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_damaged_file(exported: Exported, tmp_path: Path, suffix: str, word: str, share: float) -> None:
    content = Path(f"{stem(exported)}{suffix}").read_bytes()
    (tmp_path / f"net{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(RuntimeFileError, match=rf"net{suffix} is not a usable .*{word}.*export it again"):
        read(tmp_path / f"net{suffix}", trust=True)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_file_is_held_against_the_digest_beside_it(
    exported: Exported, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"net-w0.5{suffix}"
    content = Path(f"{stem(exported)}{suffix}").read_bytes()
    path.write_bytes(content)
    with pytest.raises((RuntimeFileError, SumsError), match="trust=true"):
        read(path)
    assert read(path, trust=True).classes == 10
    (tmp_path / exported.sums.name).write_bytes(exported.sums.read_bytes())
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SumsError, match="is damaged: its digest is not that in"):
        read(path, trust=True)
    (tmp_path / exported.sums.name).write_bytes(b"\xff")
    with pytest.raises(SumsError, match="cannot be read"):
        read(path, trust=True)


@pytest.mark.parametrize("suffix", ["", ".onnx", ".pt2"])
def test_other_images_and_other_classes_are_refused(exported: Exported, suffix: str) -> None:
    network = read(f"{stem(exported)}{suffix}", trust=True)
    network.check("digits", (1, 8, 8), 10)
    with pytest.raises(
        RuntimeFileError,
        match=r"net-w0\.5\S* takes images of shape \(1, 8, 8\).* fashion_mnist are \(1, 28, 28\)",
    ):
        network.check("fashion_mnist", (1, 28, 28), 10)
    with pytest.raises(RuntimeFileError, match="gives 10 logits, mine has 3 classes"):
        network.check("mine", (1, 8, 8), 3)


def test_a_file_of_something_that_takes_no_images(tmp_path: Path) -> None:
    flat = torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),))
    torch.export.save(flat, tmp_path / "flat.pt2")
    with pytest.raises(RuntimeFileError, match=r"makes \[2, 2\] of \[2, 3\]; .*\(N, C, H, W\) in"):
        read(tmp_path / "flat.pt2", trust=True)


MINE = """
from torch import nn

def build(classes, in_channels, width=4):
    body = nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, classes))
"""


def test_a_network_of_ones_own_is_rebuilt_where_its_function_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"target": "net_of_mine:build", "width": 6}
    dense = zoo.build("import", classes=10, in_channels=1, **options).eval()
    graph = trace(dense, (1, 8, 8))
    plan = Plan.dense(graph).with_group(0, (1, 3, 5))
    network = cut(dense, graph, plan).eval()
    card = replace(CARD, architecture="import", options=options, plan=plan.to_dict())
    weights.save(tmp_path / "mine", network, card)
    with pytest.raises(RuntimeFileError, match=r"of your own.*target=net_of_mine:build, or give its \.onnx"):
        read(tmp_path / "mine")
    found = read(tmp_path / "mine", "net_of_mine:build")
    torch.testing.assert_close(found.forward(images(3)), network(images(3)).detach())


def doctored(exported: Exported, tmp_path: Path, **entries: object) -> Path:
    """A copy of the checkpoint with other entries in its card."""
    (tmp_path / "net.safetensors").write_bytes(exported.weights.read_bytes())
    (tmp_path / "net.json").write_bytes(exported.card.read_bytes())
    change(tmp_path / "net.json", **entries)
    return tmp_path / "net"


def plan_of(exported: Exported, **entries: object) -> dict[str, object]:
    return json.loads(exported.card.read_text())["plan"] | entries


def test_a_plan_for_another_network(exported: Exported, tmp_path: Path) -> None:
    plan = plan_of(exported, graph="0123456789abcdef")
    with pytest.raises(CheckpointError, match=r"net\.json: plan: .*made for the network 0123456789abcdef"):
        read(doctored(exported, tmp_path, plan=plan))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[0, 1]], r"plan: the plan has 1 group, the network 5"),
        ([[0, 99], *4 * [None]], r"plan: group 0 \(\S+\): kept positions .* in 0\.\.15"),
        ([[], *4 * [None]], r"plan: group 0 \(\S+\): nothing is kept"),
        ([["a"]], r"plan: group 0: kept is a list of whole numbers"),
    ],
)
def test_a_plan_that_does_not_fit(exported: Exported, tmp_path: Path, kept: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(doctored(exported, tmp_path, plan=plan_of(exported, kept=kept)))


def test_a_plan_of_other_widths_than_the_weights(exported: Exported, tmp_path: Path) -> None:
    plan = plan_of(exported, kept=[[0, 2], *4 * [None]])
    with pytest.raises(CheckpointError, match=r"of another architecture: \S+ is \[2, .* and \[3, "):
        read(doctored(exported, tmp_path, plan=plan))


def test_a_file_for_one_number_of_images_is_refused() -> None:
    with pytest.raises(RuntimeFileError, match=r"takes batches of 8 alone: export it with an open number"):
        _runnable(Path("a.onnx"), "onnx", torch.relu, [8, 3, 4, 4], [8, 10])
