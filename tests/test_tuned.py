"""The table of policies before and after fine-tuning."""

import pytest

from agents import critic
from agents.pretrained import SHIPPED
from experiments.analysis import curves, tuned


def row(policy: str, seed: int, after: float, target: float = 0.5) -> dict[str, object]:
    return {
        "policy": policy, "target": target, "seed": seed,
        "before": {"selection": 0.5, "test": 0.4}, "after": {"selection": after, "test": after},
        "macs_share": target, "params_share": 0.6,
    }  # fmt: skip


def test_the_best_after_tuning_comes_first_and_uniform_is_what_others_are_held_against():
    rows = [row("uniform", 0, 0.80), row("ddpg", 0, 0.81), row("ddpg", 1, 0.83), row("deep", 0, 0.79)]
    lines = tuned.table(rows).splitlines()
    assert lines[0] == "**50 % of the MACs**"
    assert lines[4].startswith(
        "| `ddpg` |  | 2 | 50.00 [50.00, 50.00] | 40.00 [40.00, 40.00] | 82.00 [81.00, 83.00]"
    )
    assert lines[4].endswith("| +2.00 [+1.00, +3.00] |")
    assert lines[5] == "| `uniform` |  | 1 | 50.00 | 40.00 | 80.00 | 80.00 | 60.0 |  |"
    assert lines[6].endswith("| -1.00 |")


def test_what_ranks_policies_as_tuning_does_is_told_from_five_policies_on():
    rows = [row(f"p{i}", 0, 0.8 + i / 100) | {"params_share": 0.5 + i / 10} for i in range(5)]
    for one, before in zip(rows, (0.5, 0.4, 0.3, 0.2, 0.1), strict=True):
        one["before"] = {"selection": 0.0, "test": before}
    told = tuned.table(rows).splitlines()[-1]
    assert told.startswith(
        "Spearman's correlation with the test accuracy after fine-tuning over these 5 rows: "
    )
    assert "accuracy before fine-tuning -1.00 [-1.00, " in told
    assert "parameters 1.00 [" in told
    assert "Spearman" not in tuned.table(rows[:4])


def test_each_target_has_a_table_the_largest_first():
    text = tuned.table([row("uniform", 0, 0.8, 0.3), row("uniform", 0, 0.9, 0.5)])
    assert text.index("50 % of the MACs") < text.index("30 % of the MACs")


def test_a_search_tuned_early_has_a_row_for_each_number_of_evaluations():
    both = row("gp", 0, 0.85) | {"evaluations": 400, "early": row("gp", 0, 0.82) | {"evaluations": 100}}
    lines = tuned.table([row("uniform", 0, 0.80) | {"evaluations": 1}, both]).splitlines()
    assert lines[4] == "| `gp` | 400 | 1 | 50.00 | 40.00 | 85.00 | 85.00 | 60.0 | +5.00 |"
    assert lines[5] == "| `gp` | 100 | 1 | 50.00 | 40.00 | 82.00 | 82.00 | 60.0 | +2.00 |"
    assert lines[6].startswith("| `uniform` | 1 | 1 |")
    assert "82.00" not in tuned.summary([both])


def test_critics_that_no_longer_ship_are_told():
    def of(given: str | None, **critics: object) -> str:
        agent = {"_target_": "agents.pretrained.Pretrained", "critic": given}
        contenders = {"mine": {"agent": agent}, "gp": {"agent": {"_target_": "agents.surrogate.GP"}}}
        return tuned.older_critics({"config": {"contenders": contenders}, "results": critics})

    told = "\n\n`mine` has earlier critics than those that ship now."
    assert of(None) == of(None, critics={"mine": {"sha256": "of others"}}) == told
    assert of(None, critics={"mine": {"sha256": critic.read(SHIPPED).digest}}) == of("own.safetensors") == ""


def test_the_best_so_far_is_drawn_against_evaluations_and_seconds(tmp_path):
    def drawn(policy, seed, curve, seconds):
        return row(policy, seed, 0.8) | {"curve": curve, "curve_seconds": seconds}

    two = [drawn("gp", 0, [[1, -0.4], [3, -0.2]], [1, 2]), drawn("gp", 1, [[1, -0.2], [3, -0.2]], [2, 8])]
    at, middle, low, high = curves.by_evaluation(two)
    assert at.tolist() == [1, 3]
    assert middle.tolist() == pytest.approx([-0.3, -0.2])
    assert (low <= middle).all()
    assert (middle <= high).all()
    seconds, middle, *_ = curves.by_second(two)
    assert (seconds[0], seconds[-1]) == pytest.approx((2, 2))  # from the later first to the earlier last
    assert middle[0] == pytest.approx(-0.2)
    rules = [drawn("uniform", 0, [[1, -0.5]], [1]), drawn("uniform", 0, [[1, -0.5]], [1]) | {"target": 0.3}]
    assert curves.searched([*two, *rules]) == [0.5]
    path = curves.plot([*two, *rules, row("deep", 0, 0.7)], tmp_path / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")
