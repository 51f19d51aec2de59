"""The rule of stopping by hand and against chance, and what it does to the answers of an evaluator."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import SHAPE, images, network

from amc_env.compressors.surgery import drop
from amc_env.evaluator import EvaluationError, Evaluator
from amc_env.graph.trace import trace
from amc_env.metrics import IMAGE, mean
from amc_env.plan import Plan
from amc_env.rewards import REWARDS
from amc_env.stopping import BETTER, FEWEST, RIDGE, Known, Stopping, estimate, fewest, predicted

DATA = images(400)


def hits(values):
    """Measurements of images that differ in ``top1`` alone."""
    found = np.zeros(len(values), IMAGE)
    found["top1"] = values
    return found


# --- what is learnt from the leaders


def test_a_regression_by_hand():
    """x = -1, -1, 1, 1 and y = 0, 2, 4, 6: G = diag(4, 4 + 2), so that y = 3 + 8/6 x. At 2 it says 17/3.

    The residuals are -5/3, 1/3, -1/3, 5/3; s² = 52/9 / 2; 1 + zᵀ G⁻¹ z = 1 + 1/4 + 4/6.
    """
    assert RIDGE == 2
    features, outcomes = np.array([[-1.0], [-1], [1], [1]]), np.array([0.0, 2, 4, 6])
    value, error = predicted(features, outcomes, np.array([2.0]))
    assert value == pytest.approx(17 / 3)
    assert error == pytest.approx(math.sqrt(52 / 18 * (1 + 1 / 4 + 4 / 6)))
    shifted = predicted(10 * features - 3, outcomes, np.array([17.0]))  # in other units it says the same
    assert shifted == pytest.approx((value, error))


def test_nothing_is_learnt_from_a_mean_that_all_leaders_share():
    features, outcomes = np.full((5, 2), 0.3) + 1e-15 * np.eye(5, 2), np.arange(5.0)
    value, error = predicted(features, outcomes, np.array([0.3, 0.3]))
    assert (value, error) == pytest.approx((2, math.sqrt(10 / 2 * (1 + 1 / 5))))
    far = predicted(features, outcomes, np.array([0.9, 0.3]))
    assert far[0] == pytest.approx(2)
    assert far[1] > error


def test_what_is_expected_of_a_plan_by_hand():
    """Of four images two are seen. The two of the plan hit; of the rest it is said what the leaders' give."""
    measured = [hits(values) for values in ([1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1])]
    first, rest = np.array([[1.0, 0], [0.5, 0], [0, 0], [1, 0]]), np.array([0.5, 0, 0, 0.5])
    others, error = predicted(first, rest, np.array([1.0, 0]))
    known = Known(measured)
    assert known.expected("top1", hits([1, 1])) == pytest.approx((0.5 * 1 + 0.5 * others, 0.5 * error))
    guess = estimate(hits([1, 1]), known, "reward")
    assert guess.top1 == pytest.approx(0.5 + 0.5 * others)
    assert guess.gap_error == pytest.approx(0.5 * error)
    assert (guess.n_images, guess.skipped, guess.split) == (2, 2, "reward")
    assert guess.std_error == pytest.approx(
        math.hypot(0.5 * error, math.sqrt(guess.top1 * (1 - guess.top1) / 4))
    )


def test_an_estimate_holds_all_measures_within_their_range():
    known, found = Known(plans(np.random.default_rng(0), 12, 40)[:10]), np.zeros(20, IMAGE)
    sure, doubtful = estimate(found, known, "reward"), estimate(found, known, "reward", errors=99)
    for name, way in BETTER.items():
        assert getattr(sure, name) >= 0
        assert way * getattr(doubtful, name) > way * getattr(sure, name) or getattr(sure, name) == 0
    assert (doubtful.top1, doubtful.top5, doubtful.agreement, doubtful.loss, doubtful.kl) == (1, 1, 1, 0, 0)


def plans(rng, count, images):
    """Measurements of plans, better and worse ones, on images that are hard or easy for all of them."""
    ease, made = rng.normal(1, 1.5, images), []
    for quality in rng.normal(0, 0.3, count):
        margin = ease + quality + rng.normal(0, 0.7, images)
        found = np.zeros(images, IMAGE)
        found["top1"], found["top5"], found["agreement"] = margin > 0, margin > -1, margin > -0.2
        found["loss"], found["kl"] = np.log1p(np.exp(-2 * margin)), np.maximum(0.8 - margin / 2, 0.01)
        made.append(found)
    return made


def test_errors_are_as_large_as_they_are_said_to_be():
    """Of 300 new plans, after 40, 200 and 360 of 400 images: deviations in units of the error have size 1."""
    rng = np.random.default_rng(1)
    for count in (40, 200, 360):
        off = {name: [] for name in BETTER}
        for _ in range(100):
            *leaders, one, two, three = plans(rng, 53, 400)
            known = Known(leaders)
            for plan in (one, two, three):
                for name in BETTER:
                    value, error = known.expected(name, plan[:count])
                    off[name].append((value - plan[name].mean(dtype=np.float64)) / error)
        for values in off.values():
            assert abs(np.mean(values)) < 0.25
            assert 0.85 < np.std(values) < 1.2


def test_it_knows_more_than_the_mean_of_the_first_images_and_more_with_the_divergence():
    rng, off = np.random.default_rng(2), {"mean": [], "alone": [], "both": []}
    for _ in range(200):
        *leaders, plan = plans(rng, 51, 400)
        truth, known = plan["top1"].mean(), Known(leaders)
        off["mean"].append(plan["top1"][:50].mean() - truth)
        off["both"].append(known.expected("top1", plan[:50])[0] - truth)
        for measured in (*leaders, plan):
            measured["kl"] = 0
        off["alone"].append(Known(leaders).expected("top1", plan[:50])[0] - truth)
    size = {name: np.sqrt(np.mean(np.square(values))) for name, values in off.items()}
    assert size["both"] < 0.9 * size["alone"]
    assert size["alone"] < 0.7 * size["mean"]


# --- the rule


def top1(plan, evaluation):
    return evaluation.top1


PLAN, *OTHERS = (Plan("graph", ((number,),)) for number in range(13))


def hopeless(rule, plan, found, measured):
    """Whether a plan may be stopped, where that was measured of the leaders."""
    least = rule.least(OTHERS[: len(measured)], measured, "reward")
    return rule.hopeless(plan, found, Known(measured), least, "reward")


def test_what_a_plan_is_compared_with_is_the_leader_of_the_rank():
    measured = [hits(np.arange(10) < number) for number in (5, 9, 7, 8)]
    for rank, hit in ((1, 9), (2, 8), (4, 5)):
        assert Stopping(5, 1.0, top1, rank).least(OTHERS[:4], measured, "reward") == hit / 10


def test_how_many_leaders_there_must_be():
    assert [fewest(rank) for rank in (1, 5, 6, 10)] == [FEWEST, 10, 12, 20]


def test_when_a_plan_is_hopeless_by_hand():
    """The first 10 of 20 images of 12 leaders, and of the plan; the third best is the bar."""
    rng = np.random.default_rng(0)
    measured = [hits(rng.random(20) < 0.6) for _ in range(12)]
    bar = sorted(images["top1"].mean() for images in measured)[-3]
    for confidence in (0.5, 2.0):
        rule = Stopping(10, confidence, top1, rank=3)
        for hit in range(11):
            found = hits(np.arange(10) < hit)
            value, error = Known(measured).expected("top1", found)
            assert hopeless(rule, PLAN, found, measured) == (value + confidence * error < bar)
    answers = [hopeless(rule, PLAN, hits(np.arange(10) < hit), measured) for hit in range(11)]
    assert answers == sorted(answers, reverse=True)
    assert (answers[0], answers[-1]) == (True, False)


def test_each_is_weighed_with_its_own_cost():
    """R_FLOPs: a plan that misses more may still be the better one, for it costs less."""
    rng = np.random.default_rng(3)
    measured, poor = [hits(rng.random(100) < 0.8) for _ in OTHERS], hits(np.arange(50) < 30)

    def worth(cost):
        return lambda plan, evaluation: REWARDS["flops"](evaluation, cost.get(plan, 10**6), 1)

    assert hopeless(Stopping(50, 1.0, worth({}), 3), PLAN, poor, measured)
    assert not hopeless(Stopping(50, 1.0, worth({PLAN: 10}), 3), PLAN, poor, measured)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 39),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.integers(1, 5),
    st.sampled_from(["error", "error_top5", "flops"]),
)
def test_what_stops_is_below_the_leader_of_the_rank_by_its_estimate_too(
    seed, count, confidence, rank, reward
):
    *measured, found = plans(np.random.default_rng(seed), 13, 40)

    def worth(plan, evaluation):
        return REWARDS[reward](evaluation, 10**6, 10**6)

    rule = Stopping(2, confidence, worth, rank)
    if hopeless(rule, PLAN, found[:count], measured):
        guess = estimate(found[:count], Known(measured), "reward")
        below = sum(
            worth(PLAN, guess) < worth(plan, mean(rows, "reward"))
            for plan, rows in zip(OTHERS, measured, strict=True)
        )
        assert below >= rank
        assert math.isfinite(guess.std_error)


# --- the evaluator


MODEL = network("residual")
GRAPH = trace(MODEL, SHAPE)
DENSE = Plan.dense(GRAPH)
PLANS = [
    DENSE,
    *(DENSE.with_group(0, kept) for kept in ((0,), (1, 2), tuple(range(11)))),
    *(DENSE.with_group(1, kept) for kept in ((0,), tuple(range(7)))),
]
LEADERS = [DENSE, *(DENSE.with_group(0, tuple(set(range(12)) - {lost})) for lost in range(9))]
RUN = 40 * (1 + len(LEADERS))  # the dense network for what is compared, and the leaders


def agreement(plan, evaluation):
    return evaluation.agreement


def make(block=8, confidence=3.0, **settings):
    rule = None if block is None else Stopping(block, confidence, agreement, rank=2)
    return Evaluator(MODEL, GRAPH, DATA, drop, **{"batch_size": 4, "stopping": rule} | settings)


def test_a_plan_that_is_far_worse_stops_and_says_what_it_knows():
    evaluate, whole = make(), make(None)
    found, full = evaluate(PLANS[1], LEADERS), whole(PLANS[1])
    assert (found.n_images, found.skipped) == (8, 32)
    assert evaluate.forwards == RUN + 8
    known = Known([evaluate._measured(leader, 40) for leader in LEADERS])
    assert found == estimate(evaluate._measured(PLANS[1], 8), known, "reward")
    assert evaluate.forwards == RUN + 8
    assert found.gap_error > 0
    assert abs(found.top1 - full.top1) < 5 * found.gap_error


@pytest.mark.parametrize("block", [None, 8])
def test_with_few_leaders_and_as_one_of_them_a_plan_gets_all_images(block):
    evaluate, whole = make(block), make(None)
    for plan in PLANS:
        assert (
            evaluate(plan) == evaluate(plan, LEADERS[:9]) == evaluate(plan, [*LEADERS, plan]) == whole(plan)
        )
        assert evaluate(plan).n_images == 40
        assert evaluate(plan).skipped == 0


def test_what_is_not_stopped_is_answered_as_if_there_were_no_rule():
    near = PLANS[3]
    assert make()(near, LEADERS) == make(None)(near, LEADERS) == make(None)(near)


def test_a_plan_is_stopped_for_being_worse_than_the_leader_of_the_rank_alone():
    bad = [DENSE.with_group(0, (kept,)) for kept in range(1, 12)]
    stopped = [make(confidence=0.1)(PLANS[1], [*LEADERS[:good], *bad]).skipped > 0 for good in (0, 1, 3, 10)]
    assert stopped == [False, False, True, True]


asked = st.lists(
    st.tuples(
        st.sampled_from(PLANS), st.lists(st.sampled_from([*PLANS, *LEADERS]), max_size=14, unique=True)
    ),
    min_size=1,
    max_size=6,
)
REUSED = make()


@given(asked)
def test_an_answer_is_of_the_arguments_alone(questions):
    """Whatever was asked before, of a remembering evaluator or a new one."""
    fresh = make()
    backwards = [fresh(*question) for question in reversed(questions)]
    assert [REUSED(*question) for question in questions] == backwards[::-1]
    assert [make()(*question) for question in questions[:1]] == backwards[-1:]


def test_no_image_is_run_twice_for_a_plan():
    evaluate = make()
    for _ in range(2):
        evaluate(PLANS[1], LEADERS)
        assert evaluate.forwards == RUN + 8
    evaluate(PLANS[1])
    assert evaluate.forwards == RUN + 40
    evaluate(PLANS[1], [*LEADERS, PLANS[4]])
    assert evaluate.forwards == RUN + 2 * 40


def test_of_many_plans_the_oldest_are_forgotten_and_answered_the_same(monkeypatch):
    monkeypatch.setattr("amc_env.evaluator.REMEMBERED", 1)
    forgetful = make()
    for plan, other in itertools.permutations(PLANS[1:5], 2):
        leaders = [other, *LEADERS]
        assert forgetful(plan, leaders) == REUSED(plan, leaders)
        assert len(forgetful._seen) == 2


@pytest.mark.parametrize(
    ("block", "batch", "looks"),
    [
        (2, 4, [4, 8, 12, 16, 20, 24, 28, 32, 36]),
        (8, 4, [8, 16, 24, 32]),
        (10, 4, [8, 16, 24, 32]),
        (15, 7, [14, 28]),
        (100, 4, []),
        (10, 100, []),
    ],
)
def test_looks_are_at_ends_of_batches_about_a_block_apart(block, batch, looks):
    assert make(block, batch_size=batch)._looks == looks


def test_a_plan_whose_logits_are_not_finite_is_told_in_whatever_block():
    def damaged(tasks):
        for _, _, weight, columns in tasks:
            yield weight[:, columns] * (math.nan if len(columns) < weight.size(1) / 2 else 1)

    rule = Stopping(8, 3.0, agreement, rank=2)
    evaluate = Evaluator(MODEL, GRAPH, DATA, damaged, batch_size=4, stopping=rule)
    for _ in range(2):
        with pytest.raises(EvaluationError, match=rf"plan {PLANS[1].hash} are not finite"):
            evaluate(PLANS[1], LEADERS)
    assert evaluate(DENSE).n_images == 40
