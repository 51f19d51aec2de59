"""Comparisons on a real network: every search is there, a killed one goes on, and the table by hand."""

import json

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from rewriting import cut_short

from experiments.analysis import ablation, report
from experiments.cli.config import CONF
from experiments.recording.record import RunRecord, without_clock
from experiments.searching import ablate, compare

pytestmark = pytest.mark.usefixtures("hydra")


@pytest.fixture(scope="module")
def hydra():
    """Contenders are composed as the entry point does it, under an initialised Hydra."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def config(**changes):
    contenders = {
        "uniform": ["agent=uniform", "env.scale=absolute"],
        "ours": ["agent=random", "protocol.reward=loss"],
    }
    settings = {"contenders": contenders, "experiment": "digits", "targets": [0.5, 0.3], "seeds": 2}
    return OmegaConf.create({**settings, "episodes": 3, "output": "runs/x", **changes})


@pytest.fixture(scope="module")
def whole(hydra, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return ablate.ablate(config(), folder)


def test_every_contender_target_and_seed(whole):
    keys = [(row["target"], row["contender"], row["seed"]) for row in whole.rows]
    assert keys == [(t, name, seed) for t in (0.5, 0.3) for name in ("uniform", "ours") for seed in (0, 1)]
    assert whole.content["config"]["contenders"]["ours"]["env"]["reward"] == "loss"


def test_a_row_is_what_its_search_found(whole):
    row = whole.rows[3]
    search = RunRecord.read(whole.folder / "ours-0.5-1")
    best = max(search.rows, key=lambda line: line["reward"])
    assert search.content["config"]["protocol"] == {"resource": "macs", "target": 0.5, "reward": "loss"}
    assert search.content["config"]["seed"] == 1
    assert row["curve"][-1] == [best["episode"] + 1, best["top1"]]
    assert row["curve"][0] == [1, search.rows[0]["top1"]]
    assert row["selection"] == search.content["best"]["selection"]["top1"]


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_record(whole, tmp_path):
    settings = {"contenders": {"uniform": ["agent=uniform", "env.scale=absolute"]}, "targets": [0.5]}
    alone = ablate.ablate(config(**settings), tmp_path / "alone")
    ablate.ablate(config(**settings), tmp_path / "killed")
    cut_short(tmp_path / "killed", 1)
    again = ablate.ablate(config(**settings), tmp_path / "killed")
    assert again.rows == alone.rows
    assert without_clock(again.content) == without_clock(alone.content)


def test_it_is_kept_among_the_ablations_and_contenders_are_added(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    path = report.keep(whole.folder, "digits")
    assert path == tmp_path / "ablation" / "digits.json"
    more = ablate.ablate(config(contenders={"deep": ["agent=deep", "env.scale=absolute"]}), tmp_path / "more")
    content = json.loads(report.keep(more.folder, "digits").read_text())
    assert set(content["config"]["contenders"]) == {"uniform", "ours", "deep"}
    assert len(content["rows"]) == 12


def test_the_table_by_hand():
    def row(contender, target, seed, top1, selection):
        curve = [[1, 0.1], [7, top1]]
        return {
            "contender": contender,
            "target": target,
            "seed": seed,
            "curve": curve,
            "selection": selection,
        }

    found = {"ddpg": (0.9, 0.9, 0.8, 0.8), "weak": (0.7, 0.8, 0.8, 0.7)}
    rows = [
        row(name, target, seed, top1, top1 - 0.1)
        for name, values in found.items()
        for (target, seed), top1 in zip(((0.2, 0), (0.2, 1), (0.1, 0), (0.1, 1)), values, strict=True)
    ]
    config = {"targets": [0.2, 0.1], "seeds": 2, "contenders": {"ddpg": {}, "weak": {}}}
    head, _, weak, ours = ablation.table({"config": config, "rows": rows}).splitlines()
    assert head.split(" | ")[1:4] == ["20 % of the MACs", "10 % of the MACs", "all"]
    assert weak.startswith("| weak | 75.00 [70.00, 80.00] | 75.00 [70.00, 80.00] | 75.00 [")
    assert "| +10.00 [" in weak
    assert ours.startswith("| ddpg | 90.00 [90.00, 90.00] | 80.00 [80.00, 80.00] | 85.00 [")
    assert ours.endswith("|  |  | 75.00 [75.00, 75.00] |")


def test_a_contender_on_a_table_brings_its_reward_too():
    settings = compare.contender("mine", ["agent=random", "protocol.reward=kl"])
    assert settings["env"] == {"reward": "kl", "scale": "relative", "beta": 0.7}
