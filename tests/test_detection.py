"""The detection example: boxes, mean average precision, and compressing the backbone."""

from pathlib import Path

import pytest
import torch
from test_own_classes import command

from experiments import search
from experiments.examples import detection
from experiments.recording.record import RunRecord


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes).view(-1, 4),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(scores),
    }


def test_average_precision_by_hand() -> None:
    wanted = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "labels": torch.tensor([1, 1])}
    exact = found([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 1], [0.9, 0.8])
    assert detection.average_precision([(exact, wanted)], 1, 0.5) == 1.0
    twice = found([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], [1, 1, 1], [0.9, 0.8, 0.7])
    assert detection.average_precision([(twice, wanted)], 1, 0.5) == pytest.approx(0.5 + 0.5 * 2 / 3)
    other = found([[0, 0, 10, 10]], [2], [0.9])
    assert detection.average_precision([(other, wanted)], 1, 0.5) == 0.0
    assert detection.average_precision([(found([], [], []), wanted)], 1, 0.5) == 0.0
    assert detection.precision(lambda images: [exact], [([None], [wanted])]) == 1.0
    near = found([[0, 0, 10, 10], [20, 20, 30, 27.8]], [1, 1], [0.9, 0.8])  # 0.78 of the second box
    assert detection.average_precision([(near, wanted)], 1, 0.8) == 0.5
    mean = detection.precision(lambda images: [near], [([None], [wanted])])
    assert mean == pytest.approx(0.6 * 1.0 + 0.4 * 0.5)


def test_images_are_of_their_seed_and_boxes_lie_in_them() -> None:
    images, targets = detection.drawn(3, seed=1)
    again, _ = detection.drawn(3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
    assert images[0].shape == (3, 64, 64)
    assert all(float(each["boxes"].min()) >= 0 and float(each["boxes"].max()) <= 64 for each in targets)


@pytest.mark.slow
def test_a_detector_is_compressed_by_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))
    detection.main(str(tmp_path / "fcos"), steps=40)
    words = [
        "experiment=detection/fcos_50_uniform",
        f"model.checkpoint={tmp_path}/fcos",
        "tracking=none",
        "output=run",
    ]
    status, _, error = command(tmp_path, search, *words)
    assert status == 0, error
    table = RunRecord.read(tmp_path / "run").content["results"]["table"]
    assert table["found"]["macs"] <= 0.5 * table["dense"]["macs"]
    assert 0 <= table["found"]["test"] <= 1
