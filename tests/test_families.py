"""Comparisons of ways to compress, from records of policies."""

from experiments.analysis import families

DENSE = {"dense": {"selection": 0.9, "test": 0.89}, "dense_costs": {"bytes": 4000, "ms": 8.0}}


def row(policy, target, seed, after, params):
    tuned = {"selection": after, "test": after - 0.01}
    return {
        "policy": policy, "target": target, "seed": seed, "macs_share": 0.5, "params_share": params,
        "bytes": 2000, "ms": 4.0, "before": {"selection": 0.5, "test": 0.4}, "after": tuned,
    }  # fmt: skip


RECORDS = {
    "guaranteed-net-digits-channels": {
        "results": DENSE,
        "rows": [row("uniform", 0.5, 0, 0.91, 0.5), row("uniform", 0.3, 0, 0.898, 0.3)],
    },
    "guaranteed-net-digits-low_rank": {
        "results": DENSE,
        "rows": [row("gp", 0.4, seed, 0.899 + 0.001 * seed, 0.4) for seed in range(3)],
    },
    "families-net-digits-channels": {"results": DENSE, "rows": [row("uniform", 0.5, 0, 0.9, 0.5)]},
    "families-net-digits-joint": {"results": DENSE, "rows": [row("gp", 0.5, 0, 0.9, 0.5)]},
}


def test_a_comparison_begins_with_the_dense_network_and_has_a_row_for_each_search():
    lines = families.tables(RECORDS).splitlines()
    assert lines[0] == "**Accuracy-guaranteed: the fewest parameters: net-digits**"
    assert lines[4].startswith("| dense |  |  |  | 100.0 % | 100.0 % | 4,000 | 1.00 | 89.00 |  | 90.00 |")
    assert lines[5].startswith("| channels | `uniform` | 50 % | 1 | 50.0 % | 50.0 % | 2,000 | 0.50 | 40.00 |")
    assert "| low_rank | `gp` | 40 % | 3 |" in "\n".join(lines)


def test_the_guarantee_is_of_the_selection_split_and_of_the_mean_over_seeds():
    found = {name.split("-")[-1]: record for name, record in RECORDS.items() if name.startswith("guar")}
    text = families.guaranteed(found)
    assert "`gp` (low_rank, target 40 %), 40.0 % of them, +0.00 point on the test split" in text
    poor = {"channels": {"results": DENSE, "rows": [row("uniform", 0.3, 0, 0.8, 0.3)]}}
    assert families.guaranteed(poor).startswith("None of them is within 0.1 point")


def test_each_network_has_a_figure(tmp_path):
    (path,) = families.plots(RECORDS, tmp_path)
    assert path == tmp_path / "net-digits.png"
    assert path.stat().st_size > 5000


def test_a_record_that_was_stopped_says_so():
    (name, record), *_ = RECORDS.items()
    assert "| channels, stopped early |" in families.tables({name: record | {"stopped": True}})


def test_costs_of_a_thinner_network_are_fractions_of_the_first_dense_one():
    def of(macs, label):
        costs = DENSE["dense_costs"] | {"macs": macs, "params": macs // 4}
        rows = [row("uniform", 1.0, 0, 0.9, 1.0)]
        return {f"widths-net-digits-{label}": {"results": {**DENSE, "dense_costs": costs}, "rows": rows}}

    lines = families.tables(of(800, "pruned") | of(200, "width")).splitlines()
    assert lines[5].startswith("| pruned | `uniform` | 100 % | 1 | 50.0 % | 100.0 % |")
    assert lines[6].startswith("| width | `uniform` | 100 % | 1 | 12.5 % | 25.0 % |")
