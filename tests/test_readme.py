"""The commands and snippets of README.md run."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from amc_env.data.splits import load
from amc_env.graph.trace import trace
from experiments import evaluate, pretrain, search
from experiments.analysis.report import README
from experiments.delivery.runtimes import read
from experiments.recording.record import RunRecord

COMMANDS = {"pretrain": pretrain, "search": search, "evaluate": evaluate}
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
MODULE = "# my_net.py\n"
PYTHON = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where `my_net.py` was saved and the commands of its section were called."""
    folder = tmp_path_factory.mktemp("readme")
    (own,) = (text for text in PYTHON if text.startswith(MODULE))
    (folder / "my_net.py").write_text(own)
    (shown,) = (text for language, text in BLOCKS if language == "bash" and "my_net" in text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for line in shown.splitlines():
            words = shlex.split(line)
            assert words[:2] == ["python", "-m"]
            package, _, name = words[2].partition(".")
            assert package == "experiments"
            patch.setattr(sys, "argv", words[2:])
            COMMANDS[name].main()
        yield folder
    sys.modules.pop("my_net", None)


@pytest.mark.slow
@pytest.mark.parametrize("text", PYTHON, ids=lambda text: text.strip().splitlines()[-1][:40])
def test_a_block_of_python_runs(text: str, folder: Path) -> None:
    exec(compile(text, README.name, "exec"), {"__name__": "readme"})


def test_fifteen_lines_train_an_agent_of_another_library() -> None:
    (text,) = (text for text in PYTHON if "stable_baselines3" in text)
    assert ".learn(" in text
    assert len(text.splitlines()) <= 15
    assert re.findall(r"(?:amc_env|agents|experiments)\b.*", text) == ["amc_env  # registers the ids"]


@pytest.mark.slow
def test_a_network_of_ones_own_is_cut_below_the_target_and_its_files_agree(folder: Path) -> None:
    content = RunRecord.read(folder / "runs/half").content
    checkpoint = read(folder / "runs/half/compressed", "my_net:build")
    images, _ = next(load("digits").batches("test", 100))
    expected = checkpoint.forward(images)
    for ending in ("onnx", "pt2"):
        found = read(folder / f"runs/half/compressed.{ending}", trust=True).forward(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))

    with FlopCounterMode(display=False) as counter:
        checkpoint.forward(images[:1])
    table = content["results"]["table"]
    assert counter.get_total_flops() // 2 == table["found, tuned"]["macs"]
    assert table["found, tuned"]["macs"] <= 0.5 * table["dense"]["macs"]
    assert table["found, tuned"]["test"] > 0.8


@pytest.mark.slow
def test_its_concatenation_and_addition_tie_channels(folder: Path) -> None:
    my_net = importlib.import_module("my_net")
    graph = trace(my_net.build(classes=10, in_channels=1), (1, 8, 8))
    writes = {layer.name: layer.writes.tolist() for layer in graph.layers}
    assert writes["mix.0"] == writes["stem.0"]
    assert graph.layer("mix.0").reads.tolist() == writes["wide.0"] + writes["narrow.0"]
