"""The papers' tables beside ours, and the command that runs what is missing of them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from test_site import run

from experiments.analysis import published, report
from experiments.analysis.published import PublishedError, of_row
from experiments.analysis.run import Kept
from experiments.cli import limits
from experiments.cli.config import CONF
from experiments.recording.record import RunRecord
from experiments.searching import reproduce
from experiments.searching.reproduce import ReproduceError, Sweep, chosen, counted

TABLES = published.tables()
ROWS = [row for table in TABLES.values() for row in table["rows"] if "row" in row]
FILES = {f"{path.parent.name}/{path.stem}" for path in (CONF / "experiment").glob("*/*.yaml")}


def test_every_row_has_its_file_and_every_file_its_row():
    assert {row["row"] for row in ROWS} == FILES


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_row_alone_is_an_experiment(composed, name):
    job = TABLES[name.partition("/")[0]].get("job", "search")
    cfg = composed("config" if job == "search" else job, f"experiment={name}")
    if job == "search":
        assert cfg.data.name == ("import" if cfg.metric else "cifar10")
        assert (cfg.finetune.epochs > 0) == (cfg.metric is None)
        assert (cfg.episodes == 1) == cfg.agent._target_.startswith("agents.rules.")
    needed = {
        one["file"] for key, one in TABLES[name.partition("/")[0]].get("prepare", {}).items() if key in name
    }
    if cfg.model.checkpoint is not None:
        assert f"{cfg.model.checkpoint}.safetensors" in needed
    assert f"experiments.{job} experiment={name}" in (CONF / f"experiment/{name}.yaml").read_text()


def test_every_table_has_a_verb_of_its_own():
    assert limits.OTHERS["ReproduceConfig"]["table"] == tuple(TABLES)
    assert {table["job"] for table in TABLES.values() if "job" in table} <= reproduce.JOBS.keys()
    assert {key for table in TABLES.values() for key in table["columns"]} <= published.QUANTITIES.keys()
    known = {"row", "record", "name", "keep", "layers"} | published.QUANTITIES.keys()
    assert {key for table in TABLES.values() for row in table["rows"] for key in row} <= known


def table(**row: object) -> dict[str, object]:
    known = {"title": "T", "source": "S", "status": "image", "columns": ["after"], "notes": ["N"]}
    return known | {"rows": [{"row": "t/r", "name": "A"} | row]}


def test_a_line_holds_theirs_and_ours(monkeypatch):
    monkeypatch.setattr(published, "spec", lambda name: table(after=90.0))
    runs = [run("x", seed, after, experiment="t/r", epochs=3) for seed, after in enumerate([0.5, 0.7])]
    made = published.beside("t", [*runs, run("x", 2, 0.9, experiment="t/other")])
    assert made.title == "T (ours: digits, 3 epochs of fine-tuning)"
    assert made.head[:3] == ["", "test % after, paper", "test % after, ours"]
    assert made.rows == [["A", "90", "60.00 [50.00, 70.00]", "2", "20", "2", "`aaaaaaaaa`"]]
    assert made.notes[:2] == ["The paper's numbers: S; read from a picture of its page.", "N"]
    assert published.beside("t", []).rows == [["A", "90", "", "0", "", "", ""]]


def test_a_column_that_the_paper_leaves_empty_is_ours_alone_and_a_row_of_the_papers_has_no_runs(monkeypatch):
    theirs = {"name": "P", "after": 1.0}
    monkeypatch.setattr(published, "spec", lambda name: table() | {"rows": [*table()["rows"], theirs]})
    assert published.beside("t", []).rows == [["A", "", "", "0", "", "", ""], ["P", "1", "", "", "", "", ""]]
    monkeypatch.setattr(published, "spec", lambda name: table())
    assert published.beside("t", []).head[:2] == ["", "test % after, ours"]


def test_speed_size_and_densities_of_a_run():
    of = {name: quantity.value for name, quantity in published.QUANTITIES.items()}
    costs = {"dense_ms onnx 1": 3.0, "ms onnx 1": 2.0, "bytes": 10, "dense_bytes": 40}
    plan = (Kept("stem.0", 4, 1, 100), Kept("stages.0.1.body", 4, 2, 300), Kept("stages.0.2", 4, 4, 100))
    one = run("x", 0, 0.5, costs=costs, plan=plan)
    assert (of["speedup"](one), of["rate"](one), of["speedup_torch_64"](one)) == (1.5, 4.0, None)
    assert (of["density_stem"](one), of["density_0"](one), of["density_1"](one)) == (0.25, 0.625, None)


def test_densities_are_drawn_by_part_of_the_network(monkeypatch):
    theirs = {"name": "P", "density_stem": 50, "density_classifier": 20}
    mine = {"row": "t/r", "name": "A", "record": {"name": "t/net", "policy": "ddpg", "target": 0.5}}
    asked = table() | {"columns": ["after", "density_stem", "density_0", "density_classifier"]}
    monkeypatch.setattr(published, "spec", lambda name: asked | {"rows": [theirs, mine]})
    plans = [(Kept("stem.0", 4, stay, 100), Kept("classifier", 4, 1, 10)) for stay in (1, 3)]
    runs = [run("ddpg", at, 0.5, name=f"net-ddpg-50-{at}", plan=plan) for at, plan in enumerate(plans)]
    paper, ours = published.densities("t", runs, "ddpg")
    assert (paper.series, paper.x, paper.y) == ("P, paper", [0, 2], [50, 20])
    assert (ours.series, ours.x, ours.y) == ("A, ours", [0, 2], [50.0, 25.0])
    assert (ours.low, ours.high) == ([25.0, 25.0], [75.0, 25.0])
    assert published.densities("t", runs, "gp") == [paper]


def test_every_row_that_names_a_record_shows_it():
    rows = [row for table in TABLES.values() for row in table["rows"] if "record" in row]
    found = report.committed()
    assert len(rows) > 5
    assert [row["row"] for row in rows if not of_row(found, row)] == []


def test_the_papers_learner_stands_in_table_2_with_the_mean_of_its_record():
    rows = json.loads((report.RESULTS / "tuned/plain20-cifar10-cutout_400.json").read_text())["rows"]
    after = [row["after"]["test"] for row in rows if row["policy"] == "ddpg_paper" and row["target"] == 0.5]
    line = next(
        line
        for line in report.RESULTS_PAGE.read_text().splitlines()
        if line.startswith("| Plain-20 AMC (R_Err) |")
    )
    assert f"| {100 * sum(after) / len(after):.2f} [" in line


def test_layers_of_a_file_stand_beside_the_papers():
    layer = {"numbers": 200, "kept": 20, "coded_bits": [4.25, 3.5], "bytes": 10, "dense_bytes": 800}
    results = {"layers": [layer | {"name": "ip1.weight"}, layer | {"name": "ip1.bias"}]}
    lines = published.layers({"layers": {"ip1": [8, 4.4, 3.7, 2.32]}}, results).splitlines()
    assert lines[2] == "| ip1.weight | 8 | 10.0 | 4.4 | 4.2 | 3.7 | 3.5 | 2.32 | 1.2 |"
    assert lines[3] == "| ip1.bias |  | 10.0 |  | 4.2 |  | 3.5 |  | 1.2 |"


def test_a_row_without_runs_of_its_own_takes_those_of_a_record():
    row = {"row": "t/r", "record": {"name": "tuned/net", "policy": "x", "target": 0.5}}
    other = run("x", 0, 0.5, name="net-x-50-0")
    own = run("x", 0, 0.5, experiment="t/r")
    alike = [run("y", 0, 0.5, name="net-y-50-0"), run("x", 0, 0.5, name="net-more-x-50-0")]
    assert of_row([other, *alike], row) == [other]
    packed = run("deep_compress", 2, 0.5, name="lenet-2")
    assert of_row([other, packed], {"row": "t/l", "record": {"name": "deep_compression/lenet"}}) == [packed]
    assert of_row([other, own, run("x", 1, 0.5, experiment="t/r", status="running")], row) == [own]


def test_an_unknown_table_and_an_unknown_row_are_told():
    with pytest.raises(PublishedError, match="no table 'table9'; there are table2, figure2, table3, latency"):
        published.spec("table9")
    with pytest.raises(ReproduceError, match="no row plain21 in this table; there are plain20_uniform"):
        chosen(published.spec("table2"), ["plain21"])
    assert chosen(published.spec("table2"), ["plain20_gp"]) == ["table2/plain20_gp"]


def of_images(images: str | None, folder: Path) -> list[str]:
    """What the words of a sweep say of the data."""
    cfg = SimpleNamespace(table="table2", seeds=[0], episodes=4, epochs=1, images=images, launcher="basic")
    (rules,) = reproduce.sweeps(cfg, ["table2/plain20_uniform"], folder)
    return [word for word in rules.words if word.startswith("data")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, []), ("fashion_mnist", ["data=fashion_mnist"]), (str(CONF), [f"data.root={CONF}"])],
)
def test_data_is_a_data_set_or_a_folder(given, expected, composed, tmp_path):
    composed("config")  # opens Hydra's folder of configurations
    assert of_images(given, tmp_path) == expected


def test_another_data_set_is_asked_for_on_the_command_line(composed):
    asked = composed("reproduce", "table=table2", "images=fashion_mnist", "episodes=4")
    assert reproduce.of_settings(Path("runs/table2"), asked) == Path("runs/table2-fashion_mnist-episodes4")
    folder = composed("reproduce", "table=table2", f"images={CONF}", "epochs=0")
    assert reproduce.of_settings(Path("runs/table2"), folder) == Path("runs/table2-epochs0")
    assert reproduce.of_settings(Path("runs/table2"), composed("reproduce", "table=table2")) == Path(
        "runs/table2"
    )


def test_rows_of_a_network_that_is_trained_first_are_of_one_data_set(tmp_path, composed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed("reproduce", "table=latency", "rows=[mobilenet_v1_time50]", "images=fashion_mnist")
    with pytest.raises(ReproduceError, match="which is not of fashion_mnist: choose other rows"):
        reproduce.main(cfg, tmp_path / "latency")


def test_data_that_is_neither_is_told_and_sets_that_need_a_folder_are_not_offered(composed, tmp_path):
    composed("config")
    with pytest.raises(ReproduceError, match=r"folder nor one of cifar10, cifar100, digits, fashion_mnist$"):
        of_images("cifar11", tmp_path)


def test_rules_and_searches_are_launched_apart(composed, tmp_path, monkeypatch):
    composed("config")  # opens Hydra's folder of configurations
    cfg = SimpleNamespace(table="table2", seeds=[0, 2], episodes=4, epochs=1, images=None, launcher="local")
    rows = ["table2/plain20_uniform", "table2/plain20_gp", "table2/resnet56_gp"]
    rules, searches = reproduce.sweeps(cfg, rows, tmp_path)
    common = ["finetune.epochs=1", "hydra/launcher=local", f"output={tmp_path}"]
    assert rules == Sweep(["experiment=table2/plain20_uniform", "seed=0,2", *common], 2, 1)
    words = ["experiment=table2/plain20_gp,table2/resnet56_gp", "seed=0,2", "episodes=4", *common]
    assert searches == Sweep(words, 4, 4)


def test_a_table_of_another_command_varies_its_own_keys(composed, tmp_path):
    composed("config")
    cfg = SimpleNamespace(
        table="deep_compression", seeds=[1], episodes=4, epochs=2, images=None, launcher="basic"
    )
    (sweep,) = reproduce.sweeps(cfg, ["deep_compression/lenet5"], tmp_path)
    words = ["experiment=deep_compression/lenet5", "recipe.seed=1", "recipe.epochs=2", "sharing.epochs=2"]
    words += ["hydra/launcher=basic", f"output={tmp_path}"]
    assert sweep == Sweep(words, 1, 3 * 2 + 2, "deep_compress")  # as many rounds of epochs as the file says


def test_progress_is_counted_over_the_records_of_the_sweep(tmp_path):
    sweep = Sweep(["experiment=t/a,t/b", "seed=0,1", "hydra/launcher=basic"], 4, 10)
    for name, rows, over in (("t_a,seed=0", 3, False), ("t_b,seed=1", 2, True), ("t_c,seed=0", 9, False)):
        record = RunRecord.create(tmp_path / f"experiment={name}", {}, seeds={})
        for _ in range(rows):
            record.add(reward=0.0)
        if over:
            record.finish()
    assert counted(tmp_path, sweep) == (13, 1)


@pytest.mark.parametrize(("table", "row"), [("table2", "plain20_gp"), ("figure2", "plain20_ddpg")])
def test_what_a_failed_sweep_said_comes_last_and_the_table_before_it(
    table, row, tmp_path, monkeypatch, capsys
):
    cfg = OmegaConf.create({"table": table, "rows": [row], "images": None, "episodes": None, "epochs": None})
    monkeypatch.setattr(reproduce, "sweeps", lambda *_: [Sweep(["seed=0"], 1, 1)])
    monkeypatch.setattr(reproduce, "launched", lambda *_: "disk full")
    with pytest.raises(ReproduceError, match="the same command goes on with them:\ndisk full"):
        reproduce.main(cfg, tmp_path / table)
    assert "AMC (R_Err)" in (printed := capsys.readouterr().out)
    assert "to commit a run" in printed
    made = {path.name for path in (tmp_path / "table2").iterdir()}  # figure 2 is of the runs of table 2
    assert made >= {f"{table}.md", f"{table}.tex", f"{table}.csv"}
    cfg.episodes = 4
    with pytest.raises(ReproduceError):
        reproduce.main(cfg, tmp_path / table)
    assert "to commit a run" not in capsys.readouterr().out  # a short try is no row of the paper's table


@pytest.mark.parametrize("page", [report.README, report.RESULTS_PAGE], ids=["front", "results"])
def test_no_table_of_numbers_is_typed_by_hand(page: Path):
    """Outside of the blocks that records fill, no line of a table holds a measured number."""
    text = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", page.read_text(), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert not [line for line in lines if re.search(r"\|\s*[-+]?\d+\.\d+", line)]


def test_notes_on_committed_runs_stand_beside_those_alone():
    recorded = TABLES["table2"]["recorded"]
    (own,) = (run for run in report.committed() if run.name == "plain20-cifar10-cutout-uniform-50-0")
    assert set(recorded) <= set(published.beside("table2", [own]).notes)
    mine = replace(own, folder=Path(), experiment="table2/plain20_uniform")
    assert not set(recorded) & set(published.beside("table2", [mine]).notes)
