"""Tables are made from records alone."""

import pytest

from experiments.report import README, ReportError, blocks, place, policies


def record(agent: str, target: float, top1: float, episodes: int = 400) -> dict[str, object]:
    best = {"selection": {"top1": top1}}
    return {"agent": agent, "target": target, "episodes": episodes, "best": best}


def test_mean_and_spread_by_hand() -> None:
    records = [record("uniform", 0.3, 0.5, 1), record("ddpg", 0.3, 0.6), record("ddpg", 0.3, 0.8)]
    lines = policies(records).splitlines()
    assert lines[0] == "| policy | evaluations | seeds | 30 % of the MACs |"
    assert lines[2] == "| uniform | 1 | 1 | 50.00 |"
    assert lines[3] == "| ddpg | 400 | 2 | 70.00 (60.00 to 80.00, sd 14.14) |"


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    assert place("a <!-- t --> old <!-- /t --> b", "t", "new") == "a <!-- t -->\nnew\n<!-- /t --> b"
    with pytest.raises(ReportError, match="once each"):
        place("a <!-- t --> b", "t", "new")


def test_the_readme_holds_what_the_records_say() -> None:
    text = README.read_text()
    for name, block in blocks().items():
        assert place(text, name, block) == text, "run `make report`"
