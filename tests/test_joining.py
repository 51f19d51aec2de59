"""Contenders and seeds are added to a committed comparison, or replace older ones."""

import pytest

from experiments.analysis.joining import JoinError, gathered, joined, joined_parts


def comparison(commit, episodes=4, seed=0, setting=1, **tops):
    config = {"table": "digits", "targets": [0.5], "first_seed": seed, "seeds": 1, "episodes": episodes}
    return {
        "config": config | {"contenders": {name: {"agent": name, "setting": setting} for name in tops}},
        "results": {"known_best": {"0.5": 0.9}},
        "commit": commit,
        "seconds": {"search": 2.0},
        "rows": [
            {"contender": name, "target": 0.5, "seed": seed, "curve": [[1, top]]}
            for name, top in tops.items()
        ],
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


def test_seeds_are_added_in_any_order():
    parts = [comparison("a", ddpg=0.5), comparison("b", seed=1, ddpg=0.6), comparison("a", seed=2, ddpg=0.7)]
    forward = joined(joined(*parts[:2]), parts[2])
    backward = joined(joined(parts[2], parts[1]), parts[0])
    assert forward["rows"] == backward["rows"]
    assert [row["seed"] for row in forward["rows"]] == [0, 1, 2]
    assert (forward["config"]["first_seed"], forward["config"]["seeds"]) == (0, 3)
    assert forward["seeds"] == {"first": 0, "runs": 3}
    assert forward["commits"] == backward["commits"] == {"ddpg": "a and b"}


def test_targets_are_added_from_the_largest():
    old, new = comparison("a", gp=0.5), comparison("a", gp=0.4)
    new["config"]["targets"], new["rows"][0]["target"] = [0.7], 0.7
    new["results"]["known_best"] = {"0.7": 0.95}
    both = joined(old, new)
    assert both["config"]["targets"] == [0.7, 0.5]
    assert [row["target"] for row in both["rows"]] == [0.5, 0.7]
    assert both["results"]["known_best"] == {"0.5": 0.9, "0.7": 0.95}


def test_of_a_contender_with_other_settings_no_old_seed_stays():
    both = joined(comparison("a", ddpg=0.5, gp=0.4), comparison("b", seed=1, setting=2, ddpg=0.6))
    assert [(row["contender"], row["seed"]) for row in both["rows"]] == [("ddpg", 1), ("gp", 0)]
    assert both["commits"] == {"ddpg": "b", "gp": "a"}


def test_a_setting_of_one_version_that_was_not_used_is_none_of_the_other():
    old, new = comparison("a", gp=0.5), comparison("b", seed=1, gp=0.6)
    old["config"]["confirm_epochs"] = []
    assert len(joined(old, new)["rows"]) == 2
    old["config"]["confirm_epochs"] = [1]
    with pytest.raises(JoinError, match=r"confirm_epochs is \[1\] and None"):
        joined(old, new)


def test_what_is_not_the_same_is_refused():
    with pytest.raises(JoinError, match="episodes is 4 and 8; keep it by another name"):
        joined(comparison("a", ddpg=0.5), comparison("b", episodes=8, ddpg=0.5))
    other = comparison("b", td3=0.5)
    other["results"]["known_best"] = {"0.5": 0.8}
    with pytest.raises(JoinError, match=r"the best at 0\.5 is 0\.9 and 0\.8"):
        joined(comparison("a", ddpg=0.5), other)


def test_seeds_of_a_network_trained_anew_are_refused():
    old, new = comparison("a", gp=0.5), comparison("b", seed=1, gp=0.6)
    for record, test in ((old, 0.87), (new, 0.8702)):
        record["results"]["dense"] = {"selection": 0.86, "test": test}
    assert len(joined(old, new)["rows"]) == 2
    new["results"]["dense"]["test"] = 0.88
    with pytest.raises(JoinError, match=r"dense network's test accuracy is 0\.87 and 0\.88"):
        joined(old, new)


def test_a_record_that_was_stopped_says_so_until_nothing_is_missing():
    old = comparison("a", uniform=0.5, gp=0.6) | {"stopped": True}
    old["rows"].pop()
    assert joined(old, comparison("b", seed=1, uniform=0.5))["stopped"]
    assert "stopped" not in joined(old, comparison("b", gp=0.6))


def test_parts_of_different_weights_are_refused():
    old, new = part(0, 0), part(1, 1)
    new["results"]["weights"] = "a"
    assert joined_parts(new, old)["results"] == {"weights": "a"}  # the other record did not note them
    old["results"]["weights"] = "b"
    with pytest.raises(JoinError, match="weights differ"):
        joined_parts(old, new)
    old["results"], old["config"]["steps"] = {}, 50
    with pytest.raises(JoinError, match="steps differ"):
        joined_parts(old, new)


def part(number, *plans, target=0.3):
    return {
        "config": {"protocol": target, "part": [number, 2], "plans": 4, "output": f"runs/{number}"},
        "commit": "a",
        "seconds": {"plans": 2.0},
        "results": {},
        "rows": [{"plan": at} for at in plans],
    }


def test_parts_of_one_set_of_plans_become_one_table():
    both = joined_parts(part(1, 1, 3) | {"commit": "b and c"}, part(0, 0, 2))
    assert both["commit"] == "a and b and c"
    assert [row["plan"] for row in both["rows"]] == [0, 1, 2, 3]
    assert both["config"]["part"] == [0, 1]
    assert joined_parts(part(1, 1, 3), part(0, 0))["config"]["part"] == [0, 2]  # one is missing
    assert both["seconds"] == {"plans": 4.0}
    with pytest.raises(JoinError, match="plans in common"):
        joined_parts(both, part(1, 1, 3))
    with pytest.raises(JoinError, match="protocol differ"):
        joined_parts(both, part(1, 5, target=0.5))


def surveyed(commit, plans=3, **sides):
    return {
        "config": {"models": [*sides], "plans": plans}, "commit": commit, "seconds": {"networks": 1.0},
        "rows": [{"network": name, "side": side} for name, side in sides.items()],
    }  # fmt: skip


def test_surveys_are_gathered_by_network():
    both = gathered(surveyed("a", x=64, z=96), surveyed("b", y=64, z=64))
    assert [(row["network"], row["side"]) for row in both["rows"]] == [("x", 64), ("y", 64), ("z", 64)]
    assert both["config"]["models"] == ["x", "y", "z"]
    assert list(both["commits"]) == ["a", "b"]
    assert both["seconds"] == {"networks": 2.0}
    with pytest.raises(JoinError, match="3 plans a network there, 2 here: give plans=3"):
        gathered(both, surveyed("b", plans=2, y=64))
