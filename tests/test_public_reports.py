"""Situations from public bug reports that once went wrong here, on tiny data."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from amc_env.data import imagefolder
from amc_env.data.splits import CACHE, DataError
from amc_env.data.tensors import from_tensors
from amc_env.graph.trace import trace
from amc_env.repair.moments import collect_cached
from experiments.delivery.export import write_onnx
from experiments.recording.tracking import TrackingError
from experiments.recording.wandb_tracker import WandbTracker
from experiments.training.steps import batches, steps_an_epoch

IMAGES = torch.arange(60 * 3 * 8 * 8).remainder(256).to(torch.uint8).view(60, 3, 8, 8)
LABELS = torch.arange(60) % 4
SAMPLE = {"images": 10, "points": 2, "seed": 0}


def data():
    return from_tensors(IMAGES, LABELS, IMAGES[:12], LABELS[:12], seed=0)


class Net(nn.Module):
    """Two forwards with one repr and the same weights."""

    def __init__(self, slope):
        super().__init__()
        torch.manual_seed(0)
        self.slope = slope
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.second(F.leaky_relu(self.first(x), self.slope))
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("labels", [LABELS[:, None], F.one_hot(LABELS, 4)])
def test_labels_of_two_dimensions_are_refused_by_their_shape(labels):
    with pytest.raises(DataError, match=r"labels are of shape \(60, \d\), wanted is \(N,\)"):
        from_tensors(IMAGES, labels, IMAGES, labels, seed=0)


def test_labels_that_are_no_tensor_are_refused():
    with pytest.raises(DataError, match=r"torch tensors, not list; use torch\.as_tensor"):
        from_tensors(IMAGES, LABELS.tolist(), IMAGES, LABELS, seed=0)


def test_moments_of_another_forward_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    one, other = Net(0.0).eval(), Net(1.0).eval()
    graph = trace(one, (3, 8, 8))
    found = [collect_cached(net, graph, data(), **SAMPLE) for net in (one, other)]
    assert len(list((tmp_path / "moments").iterdir())) == 2
    assert not torch.equal(*(each.rows["second"] for each in found))


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    net = Net(0.0).eval()
    graph = trace(net, (3, 8, 8))
    expected = collect_cached(net, graph, data(), **SAMPLE)
    (path,) = (tmp_path / "moments").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        again = collect_cached(net, graph, data(), **SAMPLE)
    assert all(torch.equal(again.rows[name], expected.rows[name]) for name in expected.rows)


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    net = Net(0.0).eval()
    with pytest.warns(UserWarning, match="cannot be written"):
        assert collect_cached(net, trace(net, (3, 8, 8)), data(), **SAMPLE).rows


def test_sixteen_bit_images_keep_their_scale(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (30, 1))
    for part in ("train", "val"):
        for number in range(5):
            path = tmp_path / part / "a" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ramp).save(path)
    found = imagefolder.load(tmp_path, seed=0, train_per_class=5, test_per_class=5, size=24, resize=28)
    images = found["train"].images.float()
    assert images.min() < 80
    assert images.max() > 175
    assert images.unique().numel() > 20


@pytest.mark.parametrize("tag", ["", "x" * 65, 2026])
def test_tags_that_are_refused_before_anything_starts(tmp_path, tag):
    with pytest.raises(TrackingError, match="texts of 1 to 64 characters"):
        WandbTracker(tmp_path, {}, tags=[tag])


def test_an_onnx_file_names_no_folder_of_the_machine(tmp_path):
    content = write_onnx(Net(0.0).eval(), (3, 8, 8), tmp_path / "net.onnx").read_bytes()
    for module in (torch, warnings):
        assert str(module.__file__).rpartition("/")[0].encode() not in content
    assert b"stack_trace" not in content


@pytest.mark.parametrize(
    ("images", "size", "lengths"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_a_last_batch_of_one_image_joins_the_one_before(images, size, lengths):
    found = batches(torch.arange(images), size)
    assert [len(part) for part in found] == lengths
    assert torch.equal(torch.cat(found), torch.arange(images))
    assert steps_an_epoch(images, size) == len(lengths)
