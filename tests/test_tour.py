"""The notebook runs from first to last cell in a clean process, and is committed without outputs."""

import re
from pathlib import Path

import pytest

from experiments.cli.signatures import ROOT

TOUR = ROOT / "experiments/tour.ipynb"
SECONDS = 180  # of the whole notebook


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
def test_the_tour_runs_within_three_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(TOUR, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "group 0: 32 channels, written by stem.0, mix.0" in text
    assert any("image/png" in output.get("data", {}) for output in outputs)
    after = {name: float(top1) for name, top1 in re.findall(r"(\w+): \S+ before, (\S+)% after", text)}
    assert after.keys() == {"uniform", "search"}
    assert min(after.values()) > 85
    assert float(re.findall(r"onnxruntime on 64 test images: (\S+)%", text)[0]) > 85


def test_the_tour_is_committed_without_outputs() -> None:
    text = TOUR.read_text()
    assert '"outputs": []' in text
    assert '"output_type"' not in text
    assert len(text) < 20_000
