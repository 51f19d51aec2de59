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
from amc_env.measures import IMAGE, mean
from amc_env.plan import Plan
from amc_env.rewards import REWARDS
from amc_env.stopping import Stopping, average, difference, estimate
from amc_env.trace import trace

DATA = images(400)


def hits(values):
    """Measurements of images that differ in ``top1`` alone."""
    found = np.zeros(len(values), IMAGE)
    found["top1"] = values
    return found


# --- the rule


def test_the_difference_by_hand():
    """Of four of eight images: differences -1, -1, 0, 1 have mean -1/4 and sample variance 11/12."""
    known = np.array([1, 1, 1, 0, 1, 0, 1, 1])
    found = np.array([0, 0, 1, 1])
    value, error = difference(found, known)
    assert value == pytest.approx(6 / 8 - 1 / 4)
    assert error == pytest.approx(math.sqrt(11 / 12 / 4 * (1 - 4 / 8)))


def test_nothing_is_uncertain_of_all_images_nor_of_a_constant_difference():
    known, found = np.array([1, 0, 1, 1]), np.array([0, 0, 1, 0])
    assert difference(found, known) == (0.25, 0)
    assert difference(known[:2] - 0.5, known) == (0.25, 0)


def test_the_estimate_has_no_bias_and_the_error_that_it_says():
    """Over every choice of 3 of 7 images: the mean of the estimates, and that of the squared errors."""
    known, found = np.array([0.0, 1, 1, 0, 1, 1, 0]), np.array([0.5, 0.2, 1, 0, 0.1, 0.9, 0.3])
    values, squares = [], []
    for chosen in itertools.combinations(range(7), 3):
        order = [*chosen, *sorted(set(range(7)) - set(chosen))]
        value, error = difference(found[order][:3], known[order])
        values.append(value)
        squares.append(error**2)
    assert np.mean(values) == pytest.approx(found.mean())
    assert np.mean(squares) == pytest.approx(np.var(values))


def test_an_estimate_holds_all_measures_within_their_range():
    best, found = np.zeros(8, IMAGE), np.zeros(4, IMAGE)
    best["top1"][:4], best["loss"][4:], best["kl"] = True, 2.0, 1.0
    found["loss"], found["agreement"] = 0.5, [True, False, True, False]
    known = average([best])
    guess = estimate(found, known, "reward")
    assert guess.top1 == 0  # 1/2 of the leader's, all lost: 1/2 - 1
    assert (guess.loss, guess.kl, guess.agreement) == (1.5, 0, 0.5)
    assert (guess.n_images, guess.skipped, guess.split) == (4, 4, "reward")
    error = difference(found["agreement"], known["agreement"])[1]
    assert estimate(found, known, "reward", errors=1).agreement == pytest.approx(0.5 + error)
    assert estimate(found, known, "reward", errors=9).agreement == 1
    assert guess.gap_error == 0  # every hit of the leader's was lost, without exception
    assert guess.std_error == 0


def top1(plan, evaluation):
    return evaluation.top1


PLAN, BEST, SECOND = (Plan("graph", ((number,),)) for number in range(3))


def hopeless(rule, plan, found, leaders):
    """Whether a plan may be stopped, leaders being those plans with what was measured of them."""
    measured = list(leaders.values())
    least = rule.least(list(leaders), measured, "reward")
    return rule.hopeless(plan, found, average(measured), least, "reward")


def test_when_a_plan_is_hopeless_by_hand():
    """The leader hits all 100; of 25 the plan misses k: mean -k/25, variance k (25 - k) / (25 · 24)."""
    best = {BEST: hits(np.ones(100))}
    for missed in range(26):
        found = hits(np.arange(25) >= missed)
        error = math.sqrt(missed * (25 - missed) / (25 * 24) / 25 * (1 - 25 / 100))
        for confidence in (1.0, 3.0):
            rule = Stopping(25, confidence, top1)
            expected = -missed / 25 + confidence * error < 0
            assert hopeless(rule, PLAN, found, best) == expected
    assert not hopeless(Stopping(25, 3.0, top1), PLAN, hits(np.arange(25) >= 5), best)
    assert hopeless(Stopping(25, 3.0, top1), PLAN, hits(np.arange(25) >= 6), best)


def test_two_leaders_by_hand():
    """They hit 80 and 60 of 100, both the first 60. Of 20 of these the plan misses k: mean 0.7 - k/20, to be
    compared with 0.6, variance k (20 - k) / (20 · 19).
    """
    leaders = {BEST: hits(np.arange(100) < 80), SECOND: hits(np.arange(100) < 60)}
    assert average(list(leaders.values()))["top1"].tolist() == [1.0] * 60 + [0.5] * 20 + [0.0] * 20
    for missed in range(21):
        error = math.sqrt(missed * (20 - missed) / (20 * 19) / 20 * (1 - 20 / 100))
        expected = 0.7 - missed / 20 + error < 0.6
        assert hopeless(Stopping(20, 1.0, top1), PLAN, hits(np.arange(20) >= missed), leaders) == expected
    assert not hopeless(Stopping(20, 1.0, top1), PLAN, hits(np.arange(20) >= 3), leaders)
    assert hopeless(Stopping(20, 1.0, top1), PLAN, hits(np.arange(20) >= 4), leaders)


def test_the_mean_of_many_leaders_knows_better_than_one_how_hard_an_image_is():
    rng = np.random.default_rng(0)
    ease = rng.beta(2, 1, 1000)
    found, *measured = (hits(rng.random(1000) < ease) for _ in range(11))
    one, ten = (average(measured[:count])["top1"] for count in (1, 10))
    assert difference(found["top1"][:200], ten)[1] < 0.85 * difference(found["top1"][:200], one)[1]


def test_a_plan_as_good_as_the_leader_is_seldom_stopped_at_a_look():
    rng, rule, stopped = np.random.default_rng(0), Stopping(100, 3.0, top1), 0
    for _ in range(2000):
        both = rng.random((2, 1000)) < 0.8
        both[1, 100:] = rng.permutation(both[1, 100:])
        stopped += hopeless(rule, PLAN, hits(both[0, :100]), {BEST: hits(both[1])})
    assert 0 < stopped <= 8


def test_each_is_weighed_with_its_own_cost():
    """R_FLOPs: a plan that misses more may still be the better one, for it costs less."""
    known, found = hits(np.arange(100) >= 50), hits(np.arange(50) >= 30)

    def worth(cost):
        return lambda plan, evaluation: REWARDS["flops"](evaluation, cost[plan], 1)

    dear, cheap = {PLAN: 10**6, BEST: 10**6}, {PLAN: 10, BEST: 10**6}
    known[:50], known[50:] = hits(np.arange(50) >= 10), hits(np.arange(50) >= 10)
    assert hopeless(Stopping(50, 3.0, worth(dear)), PLAN, found, {BEST: known})
    assert not hopeless(Stopping(50, 3.0, worth(cheap)), PLAN, found, {BEST: known})


bools = st.lists(st.booleans(), min_size=20, max_size=20)


@given(
    bools, st.lists(bools, min_size=1, max_size=3), st.integers(2, 19), st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from(sorted(REWARDS)),
)  # fmt: skip
def test_what_stops_is_below_all_leaders_by_its_estimate_too(ours, theirs, count, confidence, reward):
    def worth(plan, evaluation):
        return REWARDS[reward](evaluation, 1000, 100)

    found, *measured = (np.zeros(20, IMAGE) for _ in (ours, *theirs))
    for rows, values in zip((found, *measured), (ours, *theirs), strict=True):
        for name in ("top1", "top5", "agreement"):
            rows[name] = values
        rows["loss"], rows["kl"] = 1 - rows["top1"], 2 - rows["top1"]
    leaders = dict(zip((BEST, SECOND, Plan("graph", ((3,),))), measured, strict=False))
    if hopeless(Stopping(2, confidence, worth), PLAN, found[:count], leaders):
        guess = estimate(found[:count], average(measured), "reward")
        assert all(worth(PLAN, guess) < worth(plan, mean(rows, "reward")) for plan, rows in leaders.items())
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


def agreement(plan, evaluation):
    return evaluation.agreement


def make(block=8, confidence=3.0, **settings):
    rule = None if block is None else Stopping(block, confidence, agreement)
    return Evaluator(MODEL, GRAPH, DATA, drop, **{"batch_size": 4, "stopping": rule} | settings)


def test_a_plan_that_is_far_worse_stops_and_says_what_it_knows():
    evaluate, whole = make(), make(None)
    found, full = evaluate(PLANS[1], [DENSE]), whole(PLANS[1])
    assert (found.n_images, found.skipped) == (8, 32)
    assert evaluate.forwards == 40 + 40 + 8  # the dense network for what is compared, as leader, the plan
    known, some = average([evaluate._measured(DENSE, 40)]), evaluate._measured(PLANS[1], 8)
    assert evaluate.forwards == 88
    assert found == estimate(some, known, "reward")
    assert found.agreement == pytest.approx(some["agreement"].mean())  # the dense network agrees with itself
    assert found.gap_error > 0
    assert abs(found.top1 - full.top1) < 5 * found.gap_error


@pytest.mark.parametrize("block", [None, 8])
def test_without_leaders_and_as_one_of_them_a_plan_gets_all_images(block):
    evaluate = make(block)
    for plan in PLANS:
        assert evaluate(plan) == evaluate(plan, [plan]) == evaluate(plan, PLANS) == make(None)(plan)
        assert evaluate(plan).n_images == 40
        assert evaluate(plan).skipped == 0


def test_what_is_not_stopped_is_answered_as_if_there_were_no_rule():
    near = PLANS[3]
    assert make()(near, PLANS[1:2]) == make(None)(near, PLANS[1:2]) == make(None)(near)


def test_a_plan_is_stopped_for_being_worse_than_all_leaders_alone():
    assert make()(PLANS[1], [DENSE]).skipped
    assert make()(PLANS[1], [DENSE, PLANS[1]]).skipped == 0
    assert make()(PLANS[1], [DENSE, PLANS[2]]).skipped == 0  # which is as bad


asked = st.lists(
    st.tuples(st.sampled_from(PLANS), st.lists(st.sampled_from(PLANS), max_size=3, unique=True)),
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
    evaluate(PLANS[1], [DENSE])
    assert evaluate.forwards == 88
    evaluate(PLANS[1], [DENSE])
    assert evaluate.forwards == 88
    evaluate(PLANS[1])
    assert evaluate.forwards == 88 + 32
    evaluate(PLANS[1], [PLANS[3]])
    assert evaluate.forwards == 40 + 3 * 40


def test_of_many_plans_the_oldest_are_forgotten_and_answered_the_same(monkeypatch):
    monkeypatch.setattr("amc_env.evaluator.REMEMBERED", 1)
    forgetful = make()
    for plan, *leaders in itertools.permutations(PLANS[:4], 3):
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
    def damaged(layer, block, weight, columns):
        return weight[:, columns] * (math.nan if len(columns) < weight.size(1) else 1)

    rule = Stopping(8, 3.0, agreement)
    evaluate = Evaluator(MODEL, GRAPH, DATA, damaged, batch_size=4, stopping=rule)
    for _ in range(2):
        with pytest.raises(EvaluationError, match=rf"plan {PLANS[1].hash} are not finite"):
            evaluate(PLANS[1], [DENSE])
    assert evaluate(DENSE).n_images == 40
