"""A yaml file under --config-dir can name the user's own classes; a file that a run reads cannot."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
from rewriting import change_record

from experiments import finetune, search
from experiments.recording.record import RunRecord

MINE = """
from agents.rules import Rule
from amc_env.zoo.tiny import digits_cnn
from experiments.recording.tracking import NoTracker

class Half(Rule):
    def __init__(self, observation_space, action_space, *, seed, keep: float = 0.5):
        super().__init__()
        self.keep = keep

    def act(self, observation, info, *, explore):
        return super().act(observation, info, explore=explore) * 0 + self.keep

class Printing(NoTracker):
    def __init__(self, folder, config, *, mark: str = "?"):
        self.mark = mark

    def log(self, metrics):
        print(self.mark, sorted(metrics)[:2])

def net(classes, in_channels):
    return digits_cnn(classes=classes, in_channels=in_channels)
"""
FILES = {
    "mine.py": MINE,
    "own/agent/half.yaml": "_target_: mine.Half\nkeep: 0.75\n",
    "own/tracking/printing.yaml": "_target_: mine.Printing\nmark: seen\n",
    "own/model/net.yaml": "name: import\noptions: {target: 'mine:net'}\n",
}
OWN = (
    "--config-dir",
    "own",
    "agent=half",
    "tracking=printing",
    "model=net",
    "data=digits",
    "env.scale=absolute",
)
SMALL = ("episodes=1", "deliver=false", "env.reward_images=50", "output=run")


Done = tuple[int, str, str]  # exit status, stdout, stderr


def command(where: Path, job: ModuleType, *words: str) -> Done:
    """A command as typed in a folder, in this process; what it imported from there is forgotten."""
    out, error, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.syspath_prepend(where)
        patch.setattr(sys, "argv", [job.__name__, *words])
        with redirect_stdout(out), redirect_stderr(error):
            try:
                job.main()
            except SystemExit as ended:
                status = int(ended.code or 0)
    for name in ("mine", "evil"):
        sys.modules.pop(name, None)
    return status, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    status, out, error = command(where, search, *OWN, *SMALL)
    assert status == 0, error
    assert "seen [" in out
    return where


def test_agent_model_and_tracker_are_ones_own(searched: Path) -> None:
    record = RunRecord.read(searched / "run")
    assert record.content["config"]["agent"] == {"_target_": "mine.Half", "keep": 0.75}
    assert record.content["config"]["tracking"] == {"_target_": "mine.Printing", "mark": "seen"}
    assert record.rows[0]["keep_asked"]


def test_their_settings_are_checked(searched: Path) -> None:
    status, _, error = command(searched, search, *OWN, *SMALL, "agent.kep=0.5")
    assert status == 2
    assert error == "error: no key 'agent.kep' in the configuration (did you mean agent.keep?)\n"


def test_a_record_names_no_code(searched: Path) -> None:
    content = RunRecord.read(searched / "run").content
    (searched / "evil.py").write_text("open('touched', 'w').close()\n\ndef net(classes, in_channels): ...\n")
    content["config"]["model"]["options"]["target"] = "evil:net"
    content["config"]["agent"]["_target_"] = content["config"]["tracking"]["_target_"] = "evil.net"
    change_record(searched / "run", config=content["config"])
    for words in ((), ("target=mine:net", "recipe.epochs=1", "recipe.bfloat16=false")):
        status, _, error = command(searched, finetune, "run=run", *words)
        assert status == (0 if words else 2), error
        assert not (searched / "touched").exists()
    assert command(searched, search, *OWN, *SMALL)[0] == 2  # it is of another configuration
    assert not (searched / "touched").exists()


def test_an_agent_whose_actions_mean_something_else_is_refused(searched: Path) -> None:
    words = ("experiment=digits", "agent=evopress", "env.scale=relative", "output=other")
    status, _, error = command(searched, search, *words)
    assert status == 2
    assert error.endswith("the actions of agents.evopress.EvoPress are absolute: leave env.scale out\n")
