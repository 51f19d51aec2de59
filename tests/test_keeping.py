"""Only records that belong there are kept among the committed results."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments import report as command
from experiments.analysis import folders, keeping, published, report
from experiments.analysis.belonging import agent_settings
from experiments.analysis.folders import KeepError
from experiments.analysis.keeping import commit_advice, keep
from experiments.cli.checking import ConfigError
from experiments.recording.committed import read_committed
from experiments.recording.record import RecordError, RunRecord

SEARCH: dict[str, Any] = {
    "agent": agent_settings("ddpg_elites"),
    "protocol": {"resource": "macs", "target": 0.3, "reward": "error", "limits": None},
    "model": {"name": "plain20"},
    "data": {"name": "digits"},
    "episodes": 2,
    "seed": 1,
}
COMPARISON = {"contenders": {}, "table": "digits", "targets": [0.5], "seeds": 2, "episodes": 400}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def finished(folder: Path, config: dict[str, Any], *rows: dict[str, Any]) -> Path:
    with RunRecord.create(folder, config, seeds={"first": 0}) as record:
        record.update(best={"top1": 0.5})
        for row in rows:
            record.add(**row)
    return folder


def search(folder: Path, *, reward: float = -0.25, **changed: Any) -> Path:
    rows = ({"reward": reward, "episode_seconds": seconds} for seconds in (0.5, 0.25))
    return finished(folder, SEARCH | changed, *rows)


def test_what_is_kept_of_a_search_is_what_was_recorded(tmp_path: Path, results: Path) -> None:
    path = keep(search(tmp_path / "run"), "ddpg_elites-flops_30-1")
    assert path == results / "searches/ddpg_elites-flops_30-1.json"
    content = json.loads(path.read_text())
    assert (content["config"], content["agent"]) == (SEARCH, "ddpg_elites")
    assert content["rewards"] == [-0.25, -0.25]
    assert content["elapsed"] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {"name": "digits"}}, r"table's row table2/plain20_gp: it has data 'digits', not 'cifar10'"),
        ({"episodes": 4}, "a short try of table2/plain20_gp: it has episodes=4, a row .* at least 400"),
        ({"finetune": {"epochs": 0}}, r"it has finetune\.epochs=0, a row of its table has at least 1"),
    ],
)
def test_a_short_try_is_no_row_of_a_papers_table(
    tmp_path: Path, results: Path, changed: dict[str, Any], message: str
) -> None:
    whole_run = {"data": {"name": "cifar10"}, "episodes": 400, "finetune": {"epochs": 1}}
    asked = {"choices": {"experiment": "table2/plain20_gp"}}
    for name, config in (("whole", whole_run), ("short", whole_run | changed)):
        folder = search(tmp_path / name, **config)
        record = RunRecord.read(folder)
        record.update(run=record.content["run"] | asked)
    assert keep(tmp_path / "whole", "gp-plain20_gp-1") == results / "tables/table2/gp-plain20_gp-1.json"
    with pytest.raises(KeepError, match=message):
        keep(tmp_path / "short", "gp-plain20_gp-2")


def test_an_experiment_of_ones_own_has_no_paper_beside_it(tmp_path: Path, results: Path) -> None:
    record = RunRecord.read(search(tmp_path / "run"))
    record.update(run=record.content["run"] | {"choices": {"experiment": "mine/row"}})
    assert keep(tmp_path / "run", "gp-row-1") == results / "tables/mine/gp-row-1.json"


def test_of_places_on_a_machine_only_names_are_kept() -> None:
    typed = [
        "seed=1",
        "output=here",
        "model.checkpoint=/home/me/nets/mine",
        "+a=/b/c.json",
        "protocol=flops_50",
    ]
    run = {"job": "search", "overrides": typed, "choices": {"agent": "gp"}, "host": "x"}
    left = ["seed=1", "model.checkpoint=mine", "+a=c.json", "protocol=flops_50"]
    kept = {"job": "search", "overrides": left, "choices": {"agent": "gp"}}
    assert keeping._asked(run) == kept


def test_what_is_kept_of_a_comparison_is_what_was_recorded(tmp_path: Path, results: Path) -> None:
    rows = [{"contender": "ddpg", "target": 0.5, "seed": seed, "curve": []} for seed in (0, 1)]
    path = keep(finished(tmp_path / "run", COMPARISON, *rows), "digits")
    assert path == results / "regret/digits.json"
    assert json.loads(path.read_text())["rows"] == rows
    with pytest.raises(KeepError, match="digits has every row of this run already"):
        keep(tmp_path / "run", "digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../ddpg_elites-flops_30-1", "letters, digits"),
        ("", "letters, digits"),
        ("a b", "letters, digits"),
        ("dpgg-flops_30-1", "there is no agent 'dpgg'"),
        ("ddpg_paper-flops_30-1", r"does not belong to agent=ddpg_paper: it has _target_ "),
        ("ddpg_elites-flops_40-1", "there is no protocol 'flops_40'"),
        ("ddpg_elites-flops_50-1", r"does not belong to protocol=flops_50: it has target 0.3, not 0.5"),
        ("ddpg_elites-flops_30-2", "ends in seed 2, the search is of seed 1"),
        ("ddpg_elites-flops_30", "ends in seed none"),
    ],
)
def test_a_search_of_another_name(tmp_path: Path, results: Path, name: str, message: str) -> None:
    with pytest.raises((KeepError, ConfigError), match=message):
        keep(search(tmp_path / "run"), name)
    assert not results.exists()


def test_what_is_kept_already_and_what_is_of_other_data(tmp_path: Path) -> None:
    keep(search(tmp_path / "run"), "ddpg_elites-flops_30-1")
    with pytest.raises(KeepError, match="is kept already: remove"):
        keep(search(tmp_path / "again", reward=-0.5), "ddpg_elites-flops_30-1")
    other = search(tmp_path / "other", data={"name": "cifar10"}, seed=2)
    with pytest.raises(KeepError, match="belong to searches/: it has data 'cifar10', not 'digits'"):
        keep(other, "ddpg_elites-flops_30-2")


def test_a_comparison_that_was_cut_is_kept_with_the_seeds_that_have_every_target(
    tmp_path: Path, results: Path
) -> None:
    config = {
        "contenders": {"a": {}, "b": {}, "c": {}}, "recipe": {}, "targets": [0.5, 0.3], "first_seed": 2,
        "seeds": 3, "model": {"name": "net", "checkpoint": None}, "data": {"name": "digits", "root": None},
    }  # fmt: skip
    record = RunRecord.create(tmp_path / "cut", config, seeds={})
    record.add(policy="a", target=0.5, seed=2)
    with pytest.raises(KeepError, match="is running: only a finished run"):
        keep(record.folder, "net-digits")
    for policy, target, seed in (("a", 0.3, 2), ("b", 0.5, 2), ("a", 0.5, 3), ("a", 0.3, 3), ("c", 0.5, 2)):
        record.add(policy=policy, target=target, seed=seed)
    kept = json.loads(keep(record.folder, "net-digits").read_text())
    found = [(row["policy"], row["target"], row["seed"]) for row in kept["rows"]]
    assert found == [("a", 0.5, 2), ("a", 0.3, 2), ("a", 0.5, 3), ("a", 0.3, 3)]
    assert (list(kept["config"]["contenders"]), kept["config"]["seeds"]) == (["a"], 2)


@pytest.mark.parametrize(
    ("name", "row", "target"),
    [("vgg16-cifar10-20", "table3/vgg16_20_uniform", 0.2), ("net-digits", None, 0.2)],
)
def test_policies_are_kept_where_the_table_that_names_them_looks(
    name: str, row: str | None, target: float, tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = name.split("-")[:2]
    config = {
        "contenders": {"uniform": {"agent": {"_target_": "agents.rules.Uniform"}}}, "targets": [target],
        "model": {"name": model}, "data": {"name": data}, "resource": "macs", "recipe": {"epochs": 1},
        "first_seed": 0, "seeds": 1,
    }  # fmt: skip
    measured = {"counts": [], "before": {}, "after": {"test": 0.5}, "macs_share": 0.2, "params_share": 0.3}
    run = finished(tmp_path / "run", config, {"policy": "uniform", "target": target, "seed": 0} | measured)
    path = keep(run, name)
    assert path.parent == results / ("tuned" if row is None else f"tables/{row.split('/')[0]}")
    monkeypatch.setattr(report, "RESULTS", results)
    rows = [one for one in published.spec("table3")["rows"] if published.of_row(report.committed(), one)]
    assert [one["row"] for one in rows] == ([] if row is None else [row])


def test_a_folder_of_a_sweep_is_kept_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, typed = "runs/experiment=table2_plain20_gp,seed=0", []
    monkeypatch.setattr(sys, "argv", ["report", "keep", folder, "gp-flops_50-0"])
    monkeypatch.setattr(command, "show", lambda: typed.extend(sys.argv[1:]))
    command.main()
    read = OverridesParser.create().parse_overrides(typed)
    assert {one.key_or_group: one.value() for one in read} == {"keep": folder, "name": "gp-flops_50-0"}


def test_no_two_records_of_the_papers_tables_have_one_name() -> None:
    rows = [row for table in published.tables().values() for row in table["rows"] if "record" in row]
    named = {row["record"]["name"] for row in rows}
    assert len({name.rpartition("/")[2] for name in named}) == len(named)


def test_runs_that_no_table_is_made_of(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path / "running", SEARCH, seeds={})
    with pytest.raises(KeepError, match="is running: only a finished run"):
        keep(record.folder, "ddpg_elites-flops_30-1")
    with pytest.raises(KeepError, match="neither a search nor a comparison"):
        keep(finished(tmp_path / "trained", {"recipe": {}}), "mine")
    rows = [{"contender": "ddpg", "target": 0.5, "seed": 0}] * 2
    with pytest.raises(KeepError, match=r"1 duplicate row, such as contender ddpg, target 0.5, seed 0"):
        keep(finished(tmp_path / "twice", COMPARISON, *rows), "digits")
    with pytest.raises(KeepError, match="put digits into it"):
        keep(finished(tmp_path / "compared", COMPARISON), "mine")


def test_held_out_networks_of_a_pretrained_agent_are_kept(tmp_path: Path, results: Path) -> None:
    config = {"searched": [0.3], "steps": 1, "targets": [0.5]}
    path = keep(finished(tmp_path / "run", config, {"table": "a"}, {"table": "b"}), "held_out")
    assert path == results / "pretrained/held_out.json"


def test_photographs_within_milliseconds_are_no_row_of_the_table_of_macs(tmp_path: Path) -> None:
    config = {"contenders": {}, "one_shot": [], "resource": "latency"}
    with pytest.raises(KeepError, match=r"has a budget of latency, the table of photographs is of macs"):
        keep(finished(tmp_path / "run", config), "efficientnet_lite0-photos-latency")


def test_a_comparison_that_is_too_short_for_the_table_is_refused(tmp_path: Path, results: Path) -> None:
    short = finished(
        tmp_path / "run", COMPARISON | {"episodes": 20}, {"contender": "x", "target": 0.5, "seed": 0}
    )
    with pytest.raises(KeepError, match="20 evaluations a search, the table of regret needs 400"):
        keep(short, "digits")
    assert not results.exists()
    assert commit_advice(short, "digits") == ""


def test_how_to_keep_a_run_is_advised_with_its_folder_in_quotes(tmp_path: Path, results: Path) -> None:
    run = finished(tmp_path / "my run", COMPARISON, {"contender": "x", "target": 0.5, "seed": 0})
    asked = f"; commit it: python -m experiments.report keep '{run}' digits"
    assert commit_advice(run, "digits") == asked
    keep(run, "digits")
    assert commit_advice(run, "digits") == ""  # it is kept already


def test_a_damaged_committed_file_comes_back_by_a_command_for_a_shell(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"`git checkout '\S+/my run\.json'`"):
        read_committed(tmp_path / "my run.json")


def test_a_table_of_regret_has_one_record_by_its_own_name(tmp_path: Path, results: Path) -> None:
    run = finished(tmp_path / "run", COMPARISON, {"contender": "x", "target": 0.5, "seed": 0})
    with pytest.raises(KeepError, match="the name is digits, not digits-b"):
        keep(run, "digits-b")
    assert not results.exists()


def test_critics_that_have_seen_the_table_are_refused(tmp_path: Path, results: Path) -> None:
    row, agent = {"contender": "x", "target": 0.5, "seed": 0}, {"_target_": "agents.pretrained.Pretrained"}
    for tables, folder in ((["digits", "fashion"], "shipped"), (["fashion"], "own")):
        config = COMPARISON | {"contenders": {"x": {"agent": agent | {"critic": None}, "env": {}}}}
        with RunRecord.create(tmp_path / folder, config, seeds={"first": 0}) as record:
            record.update(results={"critics": {"x": {"sha256": "0", "tables": tables}}})
            record.add(**row)
    with pytest.raises(KeepError, match="trained on this table as well"):
        keep(tmp_path / "shipped", "digits")
    assert keep(tmp_path / "own", "digits").exists()
