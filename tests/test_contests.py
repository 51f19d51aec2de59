"""Which runs a page compares: seeds of one setting, one problem, one recipe."""

import re
from dataclasses import replace
from pathlib import Path

from test_site import RUNS, run

from experiments.analysis import charts, contests, report, runs, site
from experiments.analysis.run import Kept


def test_seeds_of_unlike_settings_have_no_common_mean():
    made = {"compressor": {"method": "channels", "repair": "moments"}}
    other = {"compressor": {"method": "channels", "repair": "sequential"}}
    settings = [(made, 3, 0.5), (made, 3, 0.5), (other, 3, 0.5), (other, 5, 0.51)]
    found = [
        run("gp", at, 0.8, config=config, epochs=epochs, dense={"test": dense})
        for at, (config, epochs, dense) in enumerate(settings)
    ]
    budgets = {row[2]: row[4] for row in contests.summary(contests.contests(found))}
    assert budgets == {
        "50 % of the MACs, moments, 3 epochs, dense 50.0 %": "2",
        "50 % of the MACs, sequential, 3 epochs, dense 50.0 %": "1",
        "50 % of the MACs, sequential, 5 epochs, dense 51.0 %": "1",
    }


def test_runs_of_other_settings_are_no_seeds_of_one_agent():
    rewards = [
        {"seed": seed, "protocol": {"reward": name}} for seed, name in enumerate(("error", "kl", "kl"))
    ]
    told = runs.told_apart([run("gp", seed, 0.8, config=each) for seed, each in enumerate(rewards)])
    assert [one.agent for one in told] == [f"gp protocol.reward={name}" for name in ("error", "kl", "kl")]
    assert [one.agent for one in runs.told_apart(RUNS)] == ["ddpg", "ddpg", "uniform"]


def test_an_interrupted_run_is_no_seed_beside_finished_ones():
    cut = run("gp", 1, 0.1, evaluations=2, curve=((1, -0.9),), status="interrupted")
    (one,) = contests.contests([run("gp", 0, 0.8), cut])
    assert contests.learning(one)[0].x[-1] == 20
    assert contests.summary([one])[0][4:6] == ["1", "20"]
    (alone,) = contests.contests([cut])
    assert contests.summary([alone])[0][4] == "1"


def test_agents_are_told_apart_by_a_problem_that_they_do_not_share():
    """Another learning rate is no setting of one agent alone: it explains a difference between agents."""
    configs = [{"data": {"seed": 0}, "agent": {"sigma": 1}}, {"data": {"seed": 3}, "agent": {"rate": 2}}]
    found = [run(agent, 0, 0.8, config=each) for agent, each in zip(("gp", "uniform"), configs, strict=True)]
    assert [one.agent for one in runs.told_apart(found)] == ["gp data.seed=0", "uniform data.seed=3"]


def test_recipes_make_comparisons_of_their_own():
    recipes = [{"recipe": {"lr": lr, "shift": 4, "seed": seed}} for seed, lr in enumerate((0.1, 0.2, 0.2))]
    found = [run("gp", seed, 0.8, config=each, epochs=3) for seed, each in enumerate(recipes)]
    assert [(one.budget, len(one.runs["gp"])) for one in contests.contests(found)] == [
        ("50 % of the MACs, lr 0.1", 1), ("50 % of the MACs, lr 0.2", 2)
    ]  # fmt: skip


def test_the_same_search_twice_is_one_seed():
    again = run("ddpg", 0, 0.8, name="a copy")
    kept, notes = runs.without_repeats([*RUNS, again])
    assert kept == RUNS
    assert notes == ["left out: a copy is the same search as ddpg-0"]


def test_a_search_by_changed_code_is_not_a_repeat():
    for changed in ({"commit": "b" * 40}, {"curve": ((1, -0.125),)}):
        again = run("ddpg", 0, 0.8, name="again", **changed)
        assert runs.without_repeats([*RUNS, again]) == ([*RUNS, again], [])


def test_a_run_that_has_just_begun_is_in_no_comparison():
    begun = replace(run("gp", 0, 0, name="begun"), evaluations=0, before={}, after={}, curve=())
    here = [replace(one, weights="a", folder=Path("x")) for one in RUNS]
    assert contests.contests([*here, replace(begun, folder=Path("y"))]) == contests.contests(here)


def test_a_search_of_other_weights_is_no_seed_of_the_same_mean(tmp_path):
    here = [run("gp", seed, 0.8, weights=weights, folder=tmp_path) for seed, weights in enumerate("abb")]
    found = contests.contests(runs.told_apart(here))
    assert [(one.budget, len(one.runs["gp"])) for one in found] == [
        ("50 % of the MACs, weights a", 1), ("50 % of the MACs, weights b", 2)
    ]  # fmt: skip
    tracked = [run("gp", 0, 0.8, name=name, config={"tracking": {"mode": name}}) for name in ("x", "y")]
    assert len(runs.without_repeats(tracked)[0]) == 1
    assert len(runs.without_repeats([here[0], run("gp", 0, 0.8, name="z", weights="b")])[0]) == 2


def test_committed_runs_of_two_records_are_no_two_runs_of_one_seed():
    found = report._by_record([("a", run("gp", 0, 0.8)), ("b", run("gp", 0, 0.7))])
    assert [one.agent for one in found] == ["gp", "gp (b)"]
    assert contests.summary(contests.contests(found))[0][4] == "1"


def test_plans_of_a_network_that_has_changed_are_curves_of_their_own():
    longer = run("ddpg", 1, 0.9, plan=(Kept("conv1", 8, 4), Kept("conv2", 16, 8), Kept("conv3", 4, 4)))
    (contest,) = contests.contests([RUNS[0], longer])
    assert [curve.y for curve in contests.keeps(contest)] == [[0.5, 0.75], [0.5, 0.5, 1.0]]


def test_accuracies_before_tuning_are_not_on_the_front_of_those_after():
    points = [charts.Point(x, y, "gp", "", solid, "") for x, y, solid in ((1, 99, False), (2, 80, True))]
    assert charts.tuned_front(points) == [(2, 80)]
    assert charts.tuned_front(points[:1]) == [(1, 99)]


def test_rewards_of_two_kinds_are_not_drawn_on_one_axis():
    every = [
        run(f"gp_{reward}", 0, 0.8, config={"protocol": {"reward": reward}}) for reward in ("error", "kl")
    ]
    apart = contests.by_reward(contests.contests(every))
    assert [(one.setting, list(one.runs)) for one in apart] == [
        ("reward error", ["gp_error"]), ("reward kl", ["gp_kl"]),
    ]  # fmt: skip
    assert [one.setting for one in contests.by_reward(contests.contests(RUNS))] == [""]


def test_seeds_of_fine_tuning_are_seeds():
    pair = [
        run("uniform", 0, 0.7 + seed / 10, name=f"{seed}", config={"finetune": {"seed": seed}})
        for seed in (0, 1)
    ]
    assert runs.without_repeats(pair) == (pair, [])


def test_accuracies_on_selection_are_no_points_beside_those_on_test():
    untested = replace(run("gp", 0, 0.9), after={"selection": 1.0}, before={"selection": 1.0})
    points = contests.pareto([untested, run("gp", 1, 0.8)], "macs_share")
    assert [point.y for point in points] == [80]
    first, *_ = re.findall(r'<tr data-run="([^"]+)"', site.page([untested, run("gp", 1, 0.8)], title="t"))
    assert first == "gp-1"
