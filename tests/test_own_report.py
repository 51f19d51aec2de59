"""A user's sweep, report and page: the three commands of conf/README.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_site import CHROMIUM

from experiments.cli.signatures import ROOT

TINY = ["episodes=3", "confirm=1", "finetune.epochs=1", "agent=random,cmaes,uniform"]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "conf/README.md").read_text(), re.MULTILINE | re.DOTALL)
(COMMANDS,) = (block.splitlines() for block in BLOCKS if "experiments.report" in block)


def test_they_are_three_and_the_last_opens_the_page() -> None:
    sweep, report, page = (shlex.split(line) for line in COMMANDS)
    assert sweep[:4] == ["python", "-m", "experiments.search", "-m"]
    agents, seeds = (
        next(w for w in sweep if w.startswith(f"{key}=")).count(",") for key in ("agent", "seed")
    )
    assert (agents, seeds) == (2, 2)
    assert report == ["python", "-m", "experiments.report", f"runs={sweep[-1].removeprefix('output=')}"]
    assert page[-1] == "report/index.html"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nine_runs_become_a_page(tmp_path: Path) -> None:
    known = {"PYTHONPATH": str(ROOT), "AMC_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    sweep, report, page = (shlex.split(line) for line in COMMANDS)
    words = [word for word in sweep[1:] if not word.startswith("agent=")]
    for line in ([*words, *TINY], report[1:]):
        done = subprocess.run(
            [sys.executable, *line], cwd=tmp_path, env=os.environ | known, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "9 runs, " in done.stdout
    text = (tmp_path / page[-1]).read_text()
    assert text.count("<dialog") == 9
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", text)
    for link in re.findall(r'href="(\.\./[^"]+)"', text):
        assert (tmp_path / "report" / link).exists()
    assert {path.suffix for path in (tmp_path / "report/figures").iterdir()} == {".svg", ".png"}
    if CHROMIUM.exists():
        command = [str(CHROMIUM), "--no-sandbox", "--headless=new", "--disable-gpu", "--dump-dom",
                   "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
                   (tmp_path / page[-1]).as_uri()]  # fmt: skip
        seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "9 of 9 runs" in re.sub(r"<[^>]+>", "", seen.stdout) or "9 of 9 runs" in seen.stdout
        assert "CONSOLE" not in seen.stderr
