"""The table of policies before and after fine-tuning."""

from experiments.analysis import tuned


def row(policy: str, seed: int, after: float, target: float = 0.5) -> dict[str, object]:
    return {
        "policy": policy, "target": target, "seed": seed,
        "before": {"selection": 0.5, "test": 0.4}, "after": {"selection": after, "test": after},
    }  # fmt: skip


def test_the_best_after_tuning_comes_first_and_uniform_is_what_others_are_held_against():
    rows = [row("uniform", 0, 0.80), row("ddpg", 0, 0.81), row("ddpg", 1, 0.83), row("deep", 0, 0.79)]
    lines = tuned.table(rows).splitlines()
    assert lines[0] == "**50 % of the MACs**"
    assert lines[4].startswith(
        "| `ddpg` | 2 | 50.00 [50.00, 50.00] | 40.00 [40.00, 40.00] | 82.00 [81.00, 83.00]"
    )
    assert lines[4].endswith("| +2.00 [+1.00, +3.00] |")
    assert lines[5] == "| `uniform` | 1 | 50.00 | 40.00 | 80.00 | 80.00 |  |"
    assert lines[6].endswith("| -1.00 |")


def test_each_target_has_a_table_the_largest_first():
    text = tuned.table([row("uniform", 0, 0.8, 0.3), row("uniform", 0, 0.9, 0.5)])
    assert text.index("50 % of the MACs") < text.index("30 % of the MACs")
