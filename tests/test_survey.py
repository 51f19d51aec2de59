"""The survey: networks by name are cut by random plans, counted and exported; timm's and torchvision's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from amc_env.cost import mask_widths
from experiments.analysis import folders
from experiments.analysis import survey as tables
from experiments.analysis.folders import group_of
from experiments.analysis.keeping import keep
from experiments.delivery import survey
from experiments.recording.record import RunRecord


def chain() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, survey.CLASSES)).eval()


class Branching(nn.Module):
    """A branch on a value, which cannot be read; images of 96 pixels a side alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    def forward(self, x: Tensor) -> Any:
        assert x.size(-1) == 96, "images of 96 pixels"
        return self.net(x) if x.sum() > 0 else self.net(-x)


def test_a_network_is_cut_counted_and_exported() -> None:
    torch.manual_seed(0)
    row = survey.examine(chain(), 2)
    assert (row["side"], row["layers"], row["groups"], row["equal"]) == (64, 3, 2, True)
    assert max(row["apart"], row["onnx"]) < 1e-5


def test_costs_that_are_not_those_that_run_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "mask_widths", lambda graph, mask: mask_widths(graph, mask | True))
    monkeypatch.setattr(survey, "exported", lambda network, images: {})
    assert survey.examine(chain(), 1)["equal"] is False


def test_what_is_refused_is_a_row_with_its_message() -> None:
    row = survey.examine(Branching().eval(), 2)
    assert row["side"] == 96
    assert "x.sum() > 0" in row["refused"]
    assert "\n" not in row["refused"]
    assert "(test_survey.py:" in row["refused"]


def rows() -> list[dict[str, Any]]:
    fine = {"apart": 1e-7, "equal": True, "onnx": 1e-7}
    return [
        {"network": "timm/a", "trace_seconds": 0.5, **fine},
        {"network": "timm/b", "trace_seconds": 1.5, **fine},
        {"network": "timm/c", "trace_seconds": 1.0, **fine, "apart": 0.01},
        {
            "network": "torchvision/d",
            "refused": "'a' (a.py): the operation 'einsum' is not understood: write",
        },
        {
            "network": "torchvision/f",
            "refused": "'b' (b.py): the operation 'einsum' is not understood: write",
        },
        {"network": "torchvision/e", "trace_seconds": 2.0, "apart": 0, "equal": True, "unwritten": "no roll"},
    ]


def test_a_network_named_twice_is_examined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "built", lambda name: None)
    monkeypatch.setattr(survey, "examine", lambda network, plans: {"refused": "no"})
    survey.main(
        OmegaConf.create({"models": ["timm/resnet18", "timm/resnet18"], "plans": 3}), tmp_path / "run"
    )
    assert len(RunRecord.read(tmp_path / "run").rows) == 1


def test_the_table_counts_and_names_what_is_not_right() -> None:
    lines = tables.table(rows()).splitlines()
    assert lines[2] == "| timm | 3 | 2 | 3 | 0 | 1 | 1.00 s | 1.50 s |"
    assert lines[3] == "| torchvision | 3 | 1 | 0 | 2 | 0 | 2.00 s | 2.00 s |"
    assert lines[5:] == [
        "* `timm/c`: the cut is 1e-02 apart from the mask; costs equal: True",
        "* `torchvision/d`, `torchvision/f`: the operation 'einsum' is not understood",
        "* `torchvision/e`: no roll",
    ]


def test_a_survey_is_kept_among_its_kind(tmp_path: Any) -> None:
    with RunRecord.create(tmp_path / "run", {"models": ["timm"], "plans": 3}, seeds={}) as record:
        assert group_of(record) == "networks"


def test_a_survey_that_was_cut_is_kept_with_what_it_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "RESULTS", tmp_path / "results")
    record = RunRecord.create(tmp_path / "run", {"models": ["timm"], "plans": 3}, seeds={})
    for row in rows()[:2]:
        record.add(**row)
    record.finish("interrupted")
    kept = json.loads(keep(tmp_path / "run", "some").read_text())
    assert [row["network"] for row in kept["rows"]] == ["timm/a", "timm/b"]


def test_the_listed_families() -> None:
    assert len(set(survey.listed("timm"))) == 82
    assert "torchvision/regnet_y_128gf" in survey.listed("torchvision")
    assert survey.listed("timm/resnet18") == ["timm/resnet18"]


TRANSFORMERS = ("vit_", "swin_", "maxvit_")
EVERY = [name for library in ("timm", "torchvision") for name in survey.listed(library)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EVERY)
def test_network(name: str) -> None:
    """One of `EVERY`: cut right by three plans and exported, or a transformer that is refused."""
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    row = survey.examine(survey.built(name), 3)
    if name.removeprefix("torchvision/").startswith(TRANSFORMERS):
        assert "refused" in row
        return
    assert "refused" not in row, row
    assert "unwritten" not in row, row
    assert row["equal"]
    assert row["groups"]
    assert max(row["apart"], row["onnx"]) < tables.TOLERANCE
    assert row["trace_seconds"] < 9  # three times what is wanted, for a busy machine
