"""Every command line in the pages of documentation composes and passes the checks before a job starts."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from experiments.cli import config, places, preflight
from experiments.cli.signatures import ROOT

PAGES = [
    ROOT / "README.md",
    *sorted(p for part in ("agents", "amc_env", "conf", "experiments") for p in (ROOT / part).rglob("*.md")),
]
COMMANDS = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_FILES = (places.exist, places.undamaged)  # checks that need the files which a command reads
AGENT = "_target_: my_agents.Half\nkeep: 0.5\n"
MY_AGENTS = "class Half:\n    def __init__(self, *args, keep: float = 0.5, seed: int = 0): ...\n"
MY_NET = "def build(classes, in_channels): ...\n"


def lines() -> Iterator[str]:
    """Lines of shell blocks, and pieces of code in the text that begin like a command."""
    for page in PAGES:
        text = page.read_text()
        for language, block in FENCED.findall(text):
            if language in ("bash", "sh"):
                yield from block.replace("\\\n", " ").splitlines()
        for code in re.findall(r"`([^`\n]+)`", FENCED.sub("", text)):
            first, *others = code.split()
            if first in COMMANDS and others and all("=" in word or word == "-m" for word in others):
                yield f"python -m experiments.{code}"
            elif code.startswith(("python -m experiments.", "make ")) and len(others) >= (
                1 if first == "make" else 3
            ):
                yield code
            elif first.removeprefix("experiments.") in COMMANDS and any("=" in word for word in others):
                yield f"python -m {code}"


def documented() -> list[tuple[str, ...]]:
    """Words of every command line, each once."""
    return list(dict.fromkeys(tuple(shlex.split(line, comments=True)) for line in lines()))


PYTHON = [words[2:] for words in documented() if words[:2] == ("python", "-m")]
MAKE = [words[1:] for words in documented() if words[:1] == ("make",)]


def swept(words: tuple[str, ...]) -> bool:
    """Whether several runs are started."""
    return "-m" in words or any(word.startswith("sweep=") for word in words)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[list[DictConfig]]:
    """The configurations of the jobs that would have been run; the user's modules and folders are there."""
    found: list[DictConfig] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, "_worked", lambda cfg, *_: found.append(cfg))
    monkeypatch.setattr(preflight, "CHECKS", [one for one in preflight.CHECKS if one not in OF_FILES])
    monkeypatch.setattr(places, "check_json", lambda *_: None)
    for file, text in {
        "my_net.py": MY_NET, "my_agents.py": MY_AGENTS,
        "FOLDER/agent/mine.yaml": AGENT, "mine/agent/half.yaml": AGENT,
    }.items():  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    yield found
    for name in ("my_net", "my_agents"):
        sys.modules.pop(name, None)


def run(words: tuple[str, ...]) -> None:
    """The command with its job left out."""
    entry = importlib.import_module(words[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(words))
        entry.main()


def test_the_pages_have_commands() -> None:
    assert len(PYTHON) > 40
    assert len(MAKE) > 5


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, marks=[pytest.mark.slow] * swept(words), id=" ".join(words)) for words in PYTHON],
)
def test_a_command_composes(words: tuple[str, ...], typed: list[DictConfig]) -> None:
    if words[0].removeprefix("experiments.") in COMMANDS:
        run(words)
        assert len(typed) >= (2 if swept(words) else 1)
    else:
        assert importlib.util.find_spec(words[0]) is not None


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_a_target_of_make_calls_commands_that_compose(
    words: tuple[str, ...], typed: list[DictConfig]
) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--directory", ROOT, *words], capture_output=True, text=True, check=True
    )
    called = [shlex.split(line) for line in done.stdout.replace("\\\n", " ").splitlines()]
    jobs = [tuple(line[line.index("-m") + 1 :]) for line in called if "-m" in line]
    for job in jobs:
        if job[0].removeprefix("experiments.") in COMMANDS:
            run(job)
    assert jobs
