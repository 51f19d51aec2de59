"""Backbones of torchvision's detectors and segmenters: search, export, and use in a clean process."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_own_classes import command

from experiments import search
from experiments.cli.signatures import ROOT
from experiments.delivery import deliver, speed
from experiments.delivery.timing import measure

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "amc_env/README.md").read_text(), re.MULTILINE | re.DOTALL
)
DETECTOR = next(block for block in BLOCKS if "detection" in block)

MINE = """
import torch
from torchvision.models import detection, segmentation
from torchvision.ops import box_iou

from amc_env.data.own import OwnData


def net(classes, in_channels, kind):
    torch.manual_seed(0)
    builder = getattr(segmentation if "lraspp" in kind else detection, kind)
    small = {"min_size": 64, "max_size": 64} if "faster" in kind else {}
    model = builder(weights=None, weights_backbone=None, num_classes=classes, **small).eval()
    if "ssd" in kind:
        model.transform.fixed_size = (128, 128)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model


def load(kind, side):
    images = list(torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(1)))
    images = images if "lraspp" not in kind else torch.stack(images)
    dense, parts = net(4, 3, kind), []
    with torch.no_grad():
        for start in range(0, 16, 4):
            part = images[start : start + 4]
            found = dense(part)
            parts.append((part, found["out"].argmax(1) if isinstance(found, dict) else found))
    names = "calibration", "reward", "selection", "test"
    return OwnData(kind, 4, {name: [part] for name, part in zip(names, parts)})


def pixels(network, batches):
    return [float((network(images)["out"].argmax(1) == masks).float().mean()) for images, masks in batches][0]


def boxes(network, batches):  # how well the dense network's boxes are met
    shares = []
    for images, targets in batches:
        for found, wanted in zip(network(images), targets):
            overlap = box_iou(wanted["boxes"], found["boxes"])
            shares.append(float(overlap.amax(1).mean()) if overlap.numel() else 0.0)
    return sum(shares) / len(shares)
"""
CLEAN = """
import sys
import torch
from amc_env.data.own import OwnData
from experiments.delivery.export import agree, called
from experiments.delivery.runtimes import onnx_run, restored
from pathlib import Path
import mine

kind, side, held = sys.argv[1], int(sys.argv[2]), sys.argv[3]
network, card = restored("run/compressed", "mine:net")
inside = called(network, held, mine.load(kind, side).splits["test"][0][0])
assert card.given["part"] == "backbone"
print(agree(onnx_run(Path("run/compressed.onnx"), inside.args), inside.returned, Path("compressed.onnx")))
"""
KINDS = (  # and what the exported files hold: the part where they cannot hold the whole
    ("ssdlite320_mobilenet_v3_large", "boxes", 128, "backbone"),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", "boxes", 64, "backbone"),
    ("lraspp_mobilenet_v3_large", "pixels", 64, ""),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "metric", "side", "held"), KINDS)
def test_a_backbone_goes_through_search_export_and_a_clean_process(
    kind: str, metric: str, side: int, held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(deliver, "batches_of", lambda macs: (1,))
    monkeypatch.setattr(speed, "measure", functools.partial(measure, repeats=2, warmup=1))
    (tmp_path / "mine.py").write_text(MINE)
    data = (
        "data=import",
        "data.options.target=mine:load",
        f"+data.options.kind={kind}",
        f"+data.options.side={side}",
    )
    words = (
        *("model=import", "target=mine:net", f"+model.options.kind={kind}", *data),
        *(f"metric=mine:{metric}", "part=backbone", "protocol.target=0.6", "agent=gp", "episodes=3"),
        *("compressor=channels", "compressor.calibration_images=4", "confirm=1", "finetune.epochs=0"),
        *("tracking=none", "output=run"),
    )
    status, out, error = command(tmp_path, search, *words)
    sys.modules.pop("mine", None)
    assert status == 0, error
    table = json.loads((tmp_path / "run/record.json").read_text())["results"]["table"]
    assert 0.5 < table["found"]["macs"] / table["dense"]["macs"] <= 0.6
    assert table["dense"]["test"] > 0.99
    assert ("hold 'backbone' alone" in out) == bool(held)

    environment = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "AMC_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    for line in (
        ("-c", CLEAN, kind, str(side), held),
        (
            "-m",
            "experiments.evaluate",
            "checkpoint=run/compressed",
            "target=mine:net",
            f"metric=mine:{metric}",
            *data,
        ),
    ):
        done = subprocess.run(
            [sys.executable, *line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert f"mine:{metric} {table['found']['test']:.6g} ±" in done.stdout


@pytest.mark.slow
def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    exec(compile(DETECTOR, "README.md", "exec"), {"__name__": "readme"})
    assert 0.5 < float(capsys.readouterr().out.split()[1]) <= 0.6


def test_the_example_of_the_readme_is_short() -> None:
    assert len(DETECTOR.splitlines()) <= 25
