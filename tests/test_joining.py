"""Contenders added to a committed comparison, or put in the place of their older selves."""

import pytest

from experiments.analysis.joining import JoinError, joined


def comparison(commit, episodes=4, **tops):
    config = {"table": "digits", "targets": [0.5], "seeds": 1, "episodes": episodes, "output": "runs/x"}
    return {
        "config": config | {"contenders": {name: {"agent": name} for name in tops}},
        "results": {"known_best": {"0.5": 0.9}},
        "commit": commit,
        "seconds": {"search": 2.0},
        "rows": [{"contender": name, "curve": [[1, top]]} for name, top in tops.items()],
    }


def test_contenders_are_added_and_replaced():
    old, new = comparison("a", uniform=0.5, ddpg=0.6), comparison("b", ddpg=0.8, td3=0.7)
    both = joined(old, new)
    found = {row["contender"]: row["curve"][0][1] for row in both["rows"]}
    assert found == {"uniform": 0.5, "ddpg": 0.8, "td3": 0.7}
    assert list(both["config"]["contenders"]) == ["uniform", "ddpg", "td3"]
    assert both["commits"] == {"uniform": "a", "ddpg": "b", "td3": "b"}
    assert both["seconds"] == {"search": 4.0}
    again = joined(both, comparison("c", td3=0.75))
    assert again["commits"] == {"uniform": "a", "ddpg": "b", "td3": "c"}
    assert len(again["rows"]) == 3


def test_what_is_not_the_same_is_refused():
    with pytest.raises(JoinError, match="episodes is 4 and 8; keep it by another name"):
        joined(comparison("a", ddpg=0.5), comparison("b", episodes=8, ddpg=0.5))
