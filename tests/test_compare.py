"""Comparisons on the tabular benchmark: all runs are there, and a killed comparison is resumed."""

import operator

import pytest
from clockless import without_clock
from omegaconf import OmegaConf
from rewriting import cut_short

from agents.actor_critic import UpdatesError
from agents.critic import Ensemble, read
from agents.pretrained import SHIPPED
from experiments.analysis.joining import joined, search
from experiments.cli.config import ConfigError
from experiments.recording.record import RecordError, RunRecord
from experiments.searching import compare, contest, pretrain_agent

pytestmark = pytest.mark.usefixtures("hydra")


@pytest.fixture
def hydra(composed):
    """Contenders are composed as the entry point does it, under an initialised Hydra."""


def config(**changes):
    contenders = {
        "uniform": ["agent=uniform", "env.scale=absolute"],
        "ours": ["agent=ddpg_elites", "agent.hidden=8"],
    }
    settings = {"contenders": contenders, "table": "digits", "targets": [0.5, 0.3], "seeds": 2}
    settings |= {"only": None, "first_seed": 0}
    return OmegaConf.create({**settings, "episodes": 30, "output": "runs/x", **changes})


def test_every_contender_target_and_seed(tmp_path):
    record = compare.compare(config(), tmp_path)
    keys = [(row["target"], row["contender"], row["seed"]) for row in record.rows]
    runs = (("uniform", 0), ("ours", 0), ("ours", 1))  # a rule has one seed
    assert keys == [(t, *run) for t in (0.5, 0.3) for run in runs]
    for row in record.rows:
        evaluations, top1 = zip(*row["curve"], strict=True)
        assert evaluations[0] == 1
        assert list(evaluations) == sorted(set(evaluations))
        assert list(top1) == sorted(top1)  # the reward is the error's, so the best so far only rises
        assert top1[-1] <= record.content["results"]["known_best"][str(row["target"])]
        assert 1 <= row["distinct"] <= row["played"] <= 30
    assert {row["played"] for row in record.rows if row["contender"] == "uniform"} == {1}


def test_a_comparison_that_is_too_short_to_be_kept_is_not_advised_to_be(tmp_path, capsys):
    compare.main(config(only=["uniform"]), tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'record.json'}"


def test_a_table_that_was_made_anew_is_not_mixed_with_the_old_one(tmp_path):
    with compare.compare(config(only=["uniform"]), tmp_path) as record:
        record.update(results={"table": "another"})
    with pytest.raises(RecordError, match="begun on another table of this name"):
        compare.compare(config(only=["uniform"]), tmp_path)


def test_some_contenders_and_seeds_are_the_same_searches_as_among_all(tmp_path):
    whole = compare.compare(config(), tmp_path / "whole")
    part = compare.compare(config(only=["ours"], first_seed=1, seeds=1), tmp_path / "part")
    wanted = [row for row in whole.rows if (row["contender"], row["seed"]) == ("ours", 1)]
    assert part.rows == wanted
    assert list(part.content["config"]["contenders"]) == ["ours"]
    assert joined(kept(whole), kept(part))["rows"] == sorted(whole.rows, key=search)


def kept(record):
    return record.content | {"rows": record.rows}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["our"], r"no contender 'our' \(did you mean ours\?\); there are\nuniform, ours"),
        ([], "only is empty"),
    ],
)
def test_a_contender_that_is_not_there(tmp_path, only, message):
    with pytest.raises(ConfigError, match=message):
        compare.compare(config(only=only), tmp_path)


def test_rules_alone_and_a_later_seed_are_nothing_to_run(tmp_path):
    with pytest.raises(ConfigError, match="a rule has seed 0 alone"):
        compare.compare(config(only=["uniform"], first_seed=3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_search_ends_with_the_known_best(tmp_path):
    record = compare.compare(
        config(contenders={"gp": ["agent=gp"]}, targets=[0.5], seeds=1, episodes=400), tmp_path
    )
    (row,) = record.rows
    assert row["curve"][-1] == [row["played"], record.content["results"]["known_best"]["0.5"]]
    assert row["played"] < 400


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_record(tmp_path):
    whole = compare.compare(config(), tmp_path / "whole")
    compare.compare(config(), tmp_path / "killed")
    cut_short(tmp_path / "killed", 3)
    again = compare.compare(config(), tmp_path / "killed")
    assert again.rows == whole.rows
    assert without_clock(again.content) == without_clock(whole.content)


@pytest.mark.parametrize("override", ["agent=ddpg", "agent.hiden=3", "agent.hidden=many", "episodes=3"])
def test_a_contender_that_is_not_one_is_named(override):
    with pytest.raises(ConfigError, match=r"contender mine: .*"):
        contest.contender("mine", ["agent=ddpg_elites", override])


def test_started_again_with_contenders_in_another_order_it_does_what_is_missing(tmp_path):
    whole = compare.compare(config(only=["uniform", "ours"]), tmp_path)
    cut_short(tmp_path, 4)
    again = compare.compare(config(only=["ours", "uniform"]), tmp_path)
    key = operator.itemgetter("target", "contender", "seed")
    assert sorted(again.rows, key=key) == sorted(whole.rows, key=key)


def test_a_learner_that_would_never_learn_is_refused_before_the_first_run(tmp_path):
    never = ["agent=ddpg_elites", "agent.updates_per_step=0.01"]
    asked = config(contenders={"random": ["agent=random"], "x": never}, targets=[0.5], seeds=1, episodes=5)
    with pytest.raises(UpdatesError, match="no update in an episode with decisions=5"):
        compare.compare(asked, tmp_path)
    assert not RunRecord.read(tmp_path).rows


def test_the_critics_of_a_comparison_are_recorded_and_may_not_change(tmp_path):
    shipped = read(SHIPPED)
    pretrain_agent.write(Ensemble(shipped.critics[:1]), tmp_path / "mine", ["fashion"])
    contenders = {"x": ["agent=pretrained", f"agent.critic={tmp_path / 'mine'}"]}
    asked = config(contenders=contenders, targets=[0.5], seeds=1, episodes=3)
    record = compare.compare(asked, tmp_path / "run")
    assert record.content["results"]["critics"]["x"]["tables"] == ["fashion"]
    pretrain_agent.write(Ensemble(shipped.critics[1:2]), tmp_path / "mine", ["fashion"])
    with record, pytest.raises(RecordError, match="other critics"):
        contest.note_critics(record, contest.contenders_of(asked))
