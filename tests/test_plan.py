"""Plans as JSON, their hashes, and refusal of wrong ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import SHAPE, network

from amc_env.files import seal
from amc_env.graph.trace import trace
from amc_env.plan import Plan, PlanError

GRAPH = trace(network("chain"), SHAPE)  # groups of 8, 12 and 16
PLAN = Plan(GRAPH.hash, ((0, 3, 7), None, tuple(range(16))))

plans_ = st.builds(
    Plan,
    st.text(max_size=20),
    st.lists(st.none() | st.lists(st.integers(0, 99)).map(tuple), max_size=5).map(tuple),
)


@given(plans_)
def test_json_and_back(plan):
    again = Plan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert again.hash == plan.hash


def test_hashes_are_the_same_on_any_machine_and_tell_plans_apart():
    # printf '{"graph":"a","kept":[[0,1],null]}' | sha256sum
    assert Plan("a", ((0, 1), None)).hash == "107f5b458eade3f8"
    variants = [
        Plan("a", ((0, 1), None)),
        Plan("b", ((0, 1), None)),
        Plan("a", ((0, 2), None)),
        Plan("a", (None, (0, 1))),
    ]
    assert len({plan.hash for plan in variants}) == 4


def test_a_decision_makes_a_new_plan_and_leaves_the_old():
    dense = Plan.dense(GRAPH)
    assert dense.kept == (None, None, None)
    assert dense.with_group(1, (2, 5)).kept == (None, (2, 5), None)
    assert dense.kept == (None, None, None)
    assert dense.with_group(1, (2, 5)).hash != dense.hash


def test_keep_ratios():
    assert PLAN.keeps(GRAPH) == [3 / 8, 1.0, 1.0]


def test_a_plan_that_fits_passes():
    PLAN.check(GRAPH)
    Plan.dense(GRAPH).check(GRAPH)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ((None, None), "2 groups, the network 3"),
        (((), None, None), r"group 0 \(1.0\): nothing is kept; keep at least one of 8"),
        (((3, 1), None, None), r"ascending, distinct, in 0\.\.7"),
        (((1, 1), None, None), "ascending, distinct"),
        (((-1, 1), None, None), "ascending, distinct"),
        ((None, (0, 12), None), r"group 1 \(2.0\): .* in 0\.\.11"),
    ],
)
def test_a_plan_that_does_not_fit_says_where(kept, says):
    with pytest.raises(PlanError, match=says):
        Plan(GRAPH.hash, kept).check(GRAPH)


def test_a_plan_for_another_network_is_refused():
    with pytest.raises(PlanError, match=f"made for the network other, this one is {GRAPH.hash}"):
        Plan("other", PLAN.kept).check(GRAPH)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, r"a plan holds .*; here are \[\]"),
        ({"graph": "a"}, r"here are \['graph'\]"),
        ({"graph": 3, "kept": []}, "a hash"),
        ({"graph": "a", "kept": "012"}, "a list"),
        ({"graph": "a", "kept": [[0], "012"]}, "group 1: kept is a list of whole numbers or null, not '012'"),
        ({"graph": "a", "kept": [[0, 1.5]]}, "group 0"),
        ({"graph": "a", "kept": [[0, True]]}, "group 0"),
        ({"graph": "a", "kept": [[0, "1"]]}, "group 0"),
        ({"graph": "a", "kept": [{"0": 1}]}, "group 0"),
    ],
)
def test_malformed_plans(facts, says):
    with pytest.raises(PlanError, match=says):
        Plan.from_dict(facts)


def test_read_a_plan_and_a_record_with_a_plan(tmp_path):
    path = tmp_path / "plan.json"
    PLAN.write(path)
    assert Plan.read(path) == PLAN
    path.write_text(json.dumps(seal({"reward": -0.1, "plan": PLAN.to_dict()})))
    assert Plan.read(path) == PLAN


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b'{"graph": "a", "kept": [[0', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1, 2]", "not an object"),
        (b'{"graph": "a", "kept": []}', "has no digest"),
        (json.dumps(seal({"plan": None})).encode(), "not a NoneType"),
        (json.dumps(seal({"plan": {"graph": "a"}})).encode(), "a plan holds"),
    ],
)
def test_a_file_without_a_plan_is_named(tmp_path, content, says):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=says) as error:
        Plan.read(path)
    assert str(path) in str(error.value)
    with pytest.raises(PlanError, match=r"missing\.json cannot be read"):
        Plan.read(tmp_path / "missing.json")
