"""The table of repairs, from records of proxies."""

from typing import Any

from experiments.analysis import repairs
from experiments.analysis.folders import group_of
from experiments.recording.record import RunRecord


def row(none: float, moments: float, sequential: float) -> dict[str, Any]:
    values = zip(repairs.COMPARED, (none, moments, sequential), strict=True)
    return {"proxies": {f"elimination, {name}": {"kl": kl, "agreement": 1 - kl / 10} for name, kl in values}}


CONFIG = {
    "model": {"name": "net"}, "data": {"name": "noise"}, "protocol": {"target": 0.5, "resource": "macs"},
    "plans": 3, "seeds": 0, "steps": 0,
}  # fmt: skip


def test_medians_and_the_largest_ratio() -> None:
    rows = [row(4, 1.0, 0.5), row(5, 2.0, 0.5), row(6, 1.0, 1.5)]
    assert repairs.ratios(rows) == [0.5, 0.25, 1.5]
    assert repairs.table({"net-noise-50": {"config": CONFIG, "rows": rows}}).splitlines()[2] == (
        "| `net`, noise | 50 % of the macs | 3 | 5.000 | 1.000 | 0.500 | 0.50 | 1.50 | 90.0% | 95.0% |"
    )


def test_only_records_with_all_repairs_stand_in_it() -> None:
    whole, part = [row(1, 1, 1)], [row(1, 1, 1), {"proxies": {"tuned 12 steps": {"kl": 0.1}}}]
    assert list(repairs.measured({"a": {"rows": whole}, "b": {"rows": part}})) == ["a"]


def test_proxies_alone_are_kept_among_the_repairs(tmp_path: Any) -> None:
    for seeds, group in ((0, "repairs"), (2, "fidelity")):
        with RunRecord.create(tmp_path / group, CONFIG | {"seeds": seeds}, seeds={}) as record:
            assert group_of(record) == group
