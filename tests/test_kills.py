"""A command that is killed repeatedly ends with the record of a run that never was."""

import random
from collections.abc import Sequence
from pathlib import Path

import fault_records
import forks
import pytest

DIGITS = ("model=digits_cnn", "data=digits")
SEARCH = (
    "search", "experiment=digits", "agent=ddpg_elites", "agent.learn_after=4", "agent.hidden=8",
    "deliver=false", "save_every=3", "confirm=2",
)  # fmt: skip
LONG = ("search", "experiment=digits", "agent=random", "deliver=false", "confirm=2", "episodes=30")
SHORT = ("device=cpu", "recipe.epochs=2", "recipe.batch_size=256", "recipe.bfloat16=false")
CALIBRATION = ("compressor.calibration_images=40", "compressor.points=2")
TABLE = ("table=digits", "targets=[0.5,0.3]", "episodes=6")
LENET = ("deep_compress", "data=digits", "model=lenet300_100", "model.options.side=8")
CHECKPOINT = "../before/net/lenet300_100-digits"
COMMANDS: dict[str, tuple[int, Sequence[str]]] = {  # of each, the kills and the words; it writes to run
    "search": (10, (*SEARCH, "episodes=14", "tracking=wandb_offline")),
    "finetune": (6, ("finetune", "run=../before/run", "recipe.epochs=4", "tracking=wandb_offline")),
    "pretrain": (6, ("pretrain", *DIGITS, *SHORT[:1], "recipe.epochs=5", "recipe.bfloat16=false")),
    "compare": (6, ("compare", *TABLE, "seeds=3", "only=[random,cmaes]")),
    "tune": (5, ("tune", *TABLE, "seeds=1", "trials=6")),
    "policies": (
        6, ("policies", *DIGITS, *SHORT, *CALIBRATION, "targets=[0.5]", "seeds=2", "episodes=3", "early=2",
            "confirm=2", "only=[uniform,random]", "reward_images=50"),
    ),
    "fidelity": (
        6, ("fidelity", *DIGITS, *SHORT, *CALIBRATION, "plans=3", "seeds=1", "steps=2", "reward_images=50",
            "protocol=flops_50"),
    ),
    "tuned_optima": (
        5, ("tuned_optima", "table=digits", "plans=6", "tunings=1", "episodes=4", "only=[random]",
            "device=cpu", "recipe.epochs=1"),
    ),
    "deep_compress": (
        6, (*LENET, *SHORT, f"model.checkpoint={CHECKPOINT}", "rounds=2", "sharing.epochs=1", "density=0.2"),
    ),
    "pretrain_agent": (
        2, ("pretrain_agent", "targets=[0.3]", "searched=[0.3]", "episodes=1", "steps=2", "critic=critic"),
    ),
    "sweep": (
        6, ("search", "-m", *LONG[1:-1], "seed=0,1,2", "episodes=6", "save_every=2"),
    ),
}  # fmt: skip
BEFORE = {  # what some commands need
    "finetune": (*SEARCH, "episodes=6", "output=run"),
    "deep_compress": ("pretrain", *LENET[1:], "device=cpu", "recipe.epochs=3", "output=net"),
}
LOGGED = {"search": "episode", "finetune": "train/epoch"}  # by W&B


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_commands_leave_what_others_do(name: str, tmp_path: Path) -> None:
    kills, words = COMMANDS[name]
    if name in BEFORE:
        assert forks.run(BEFORE[name], tmp_path / "before")[0] == 0, (tmp_path / "before.log").read_text()
    status, operations = forks.run([*words, "output=run"], tmp_path / "whole")
    assert status == 0, (tmp_path / "whole.log").read_text()
    whole = forks.left(tmp_path / "whole")
    assert whole
    assert operations > 3

    rng, killed, attempt = random.Random(name), 0, 0
    while killed < kills:
        torn, here = tmp_path / f"torn{attempt}", 0
        attempt += 1
        while killed < kills and (status := _killed(words, torn, rng, operations)) < 0:
            killed, here = killed + 1, here + 1
        status, _ = forks.run([*words, "output=run"], torn)
        assert status == 0, torn.with_name(f"{torn.name}.log").read_text()
        assert forks.left(torn) == whole, f"after {here} kills"
        if name in LOGGED:
            *_, last = forks.history(torn / "run", LOGGED[name])
            (once,) = forks.history(tmp_path / "whole" / "run", LOGGED[name])
            assert last == once == sorted(set(once))
    logged = "every row once in the last run" if name in LOGGED else "-"
    fault_records.keep("kills", name, kills=killed, records="equal", logged=logged)


def _killed(words: Sequence[str], torn: Path, rng: random.Random, operations: int) -> int:
    """The status of a run that is killed somewhere, negative unless it had ended by then."""
    status, _ = forks.run([*words, "output=run"], torn, kill_at=rng.randint(1, max(2, operations // 2)))
    return status
