"""The page, tables and figures of runs: their content, and that a browser draws them."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from experiments.analysis import charts, contests, latex, report, runs, site
from experiments.analysis.run import Kept, Run
from experiments.analysis.runs import RunsError
from experiments.recording.record import RunRecord

CHROMIUM = Path("/usr/bin/chromium")
LARGEST = 2_000_000  # bytes of a page


def run(agent: str, seed: int, after: float, **facts: object) -> Run:
    known = {
        "name": f"{agent}-{seed}", "status": "finished", "model": "net", "data": "digits", "agent": agent,
        "resource": "macs", "target": 0.5, "seed": seed, "evaluations": 20,
        "curve": ((1, -0.5), (4, -0.25)), "plan": (Kept("conv1", 8, 4), Kept("conv<2>", 16, 12)),
        "before": {"selection": 0.5, "test": 0.5}, "after": {"selection": after, "test": after},
        "costs": {"macs_share": 0.4 + seed / 10, "bytes": 2000.0, "ms": 0.5}, "seconds": 2.0,
        "commit": "a" * 40, "config": {"seed": seed},
    }  # fmt: skip
    return Run(**(known | facts))  # type: ignore[arg-type]


RUNS = [run("ddpg", 0, 0.8), run("ddpg", 1, 0.9), run("uniform", 0, 0.7)]


def test_the_front_is_what_nothing_is_both_cheaper_and_better_than():
    assert charts.front([(3, 5), (1, 2), (2, 1), (1, 1), (4, 5), (2, 4)]) == [(1, 2), (2, 4), (3, 5)]


@pytest.mark.parametrize(
    ("ends", "expected"), [((0, 10), [0, 2, 4, 6, 8, 10]), ((0.31, 0.49), [0.35, 0.4, 0.45])]
)
def test_ticks_are_round(ends, expected):
    assert charts.ticks(*ends) == pytest.approx(expected)


def test_an_older_record_names_its_found_network_otherwise():
    path = report.RESULTS / "tables/latency/uniform-mobilenet_v1_width75-0.json"
    content = json.loads(path.read_text())
    (found,) = runs.of_record(path.stem, content)
    assert found.after["test"] == content["results"]["table"]["AMC, tuned"]["test"]
    assert found.epochs == content["config"]["finetune"]["epochs"]


def test_improvements_are_counted_from_one():
    assert runs.improvements([-3.0, -4.0, -1.0, -1.0]) == ((1, -3.0), (3, -1.0))


def test_a_mean_has_its_interval_and_one_run_has_none():
    rows = {
        row[3]: dict(zip(contests.HEAD, row, strict=True))
        for row in contests.summary(contests.contests(RUNS))
    }
    assert rows["`uniform`"]["test, after"] == "70.00"
    assert rows["`ddpg`"]["test, after"] == "85.00 [80.00, 90.00]"
    assert (rows["`ddpg`"]["seeds"], rows["`ddpg`"]["budget"]) == ("2", "50 % of the MACs")


def test_each_policy_of_a_joined_record_names_the_commits_of_its_own_rows():
    agents = {name: {"agent": {"_target_": f"agents.rules.{name}"}} for name in ("old", "new")}
    config = {"contenders": agents, "resource": "macs", "episodes": 1, "recipe": {"epochs": 1}}
    config |= {"model": {"name": "net"}, "data": {"name": "digits"}}
    row = {
        "target": 0.5,
        "seed": 0,
        "counts": [],
        "before": {},
        "after": {},
        "macs_share": 1,
        "params_share": 1,
    }
    content = {
        "config": config,
        "results": {},
        "commit": "c" * 40,
        "rows": [row | {"policy": a} for a in agents],
    }
    content["commits"] = {"old": f"{'a' * 40} and {'b' * 40}-dirty"}
    old, new = runs.of_record("joined", content)
    assert contests.commits([new]) == f"`{'c' * 9}`"
    assert contests.commits([old, new]) == f"`{'a' * 9}` `{'b' * 9}` `{'c' * 9}`"


def test_series_are_means_of_what_was_reached():
    (contest,) = contests.contests(RUNS)
    ddpg, _ = contests.learning(contest)
    assert (ddpg.x[0], ddpg.y[0], ddpg.x[-1], ddpg.y[-1]) == (1, -0.5, 20, -0.25)
    assert [curve.y for curve in contests.keeps(contest)] == [[0.5, 0.75], [0.5, 0.75]]


def test_what_latex_reads_otherwise_is_escaped():
    assert latex.escaped("`a_b` 50 % & #") == r"\texttt{a\_b} 50 \% \& \#"
    assert latex.values(["a"], [["1, 2"]]) == 'a\n"1, 2"\n'


def test_a_page_needs_nothing_else_and_names_everything():
    text = site.page(RUNS, title="A < B")
    assert "A &lt; B" in text
    assert "conv&lt;2&gt;: 12 of 16 stay (75%)" in text
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text)
    assert "http" not in text
    assert text.count("<dialog") == 3
    assert text == site.page(RUNS, title="A < B")


@pytest.mark.slow
def test_a_report_has_tables_and_figures_of_every_kind(tmp_path):
    made = {str(path.relative_to(tmp_path)) for path in site.write(RUNS, tmp_path, title="T")}
    stem = "net-digits-macs-50"
    assert made == {
        "index.html", "README.md", "tables/summary.md", "tables/summary.tex", "tables/summary.csv",
        "tables/runs.csv",
        *(f"figures/{name}.{kind}" for kind in ("svg", "png")
          for name in (f"curves-{stem}", f"keep-{stem}", "pareto-net-digits-macs_share",
                       "pareto-net-digits-bytes", "pareto-net-digits-ms")),
    }  # fmt: skip
    figures = (tmp_path / "figures").glob("*")
    before = {path: path.read_bytes() for path in figures}
    site.write(RUNS, tmp_path, title="T")
    assert all(path.read_bytes() == content for path, content in before.items())
    for link in re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text()):
        assert (tmp_path / link).exists()


def test_a_folder_of_runs_is_read_and_what_is_none_is_told(tmp_path):
    with pytest.raises(RunsError, match="does not exist: give runs=FOLDER"):
        runs.load(tmp_path / "none")
    with pytest.raises(RunsError, match="holds no record of a search"):
        runs.load(tmp_path)
    config = {
        "agent": {"_target_": "agents.ddpg.DDPG"}, "protocol": {"resource": "macs", "target": 0.5},
        "model": {"name": "net"}, "data": {"name": "digits"}, "seed": 3, "finetune": {"epochs": 2},
        "deliver": True,
    }  # fmt: skip
    record = RunRecord.create(tmp_path / "a", config, seeds={})
    for reward in (-0.5, -0.25):
        record.add(reward=reward, episode_seconds=1.0)
    record.update(results={"groups": [{"layer": "c", "size": 8}]})
    RunRecord.create(tmp_path / "b", {"recipe": 1}, seeds={})
    (tmp_path / "c").mkdir()
    (tmp_path / "c/record.json").write_text("{")
    (one,), notes = runs.load(tmp_path)
    assert (one.name, one.status, one.agent, one.seed) == ("a", "running", "DDPG", 3)
    assert one.curve == ((1, -0.5), (2, -0.25))
    assert one.accuracy is None
    assert [note.partition(":")[0] for note in notes] == ["left out", "left out", "a is running"]
    assert notes[-1].endswith(f": DDPG, {100 * one.target:g} % of the {one.resource}, seed 3")
    assert "<td>running</td>" in site.page([one], title="T")
    RunRecord.create(tmp_path / "d", config | {"metric": "mine:loss"}, seeds={})
    assert "d: its accuracies are values of mine:loss, times 100" in runs.load(tmp_path)[1]


def test_the_committed_page_is_rebuilt_byte_for_byte():
    committed = (report.RESULTS / site.PAGE).read_bytes()
    assert report.committed_page().encode() == committed, "run `make report`"
    assert len(committed) < LARGEST


CHECK = """<script>
const seen = {errors: []};
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("load", () => {
  const rows = () => all("#runs tbody tr").filter((row) => !row.classList.contains("off"));
  const values = (at) => rows().map((row) => held(row.cells[at]));
  heads[1].click();
  seen.descending = values(1);
  heads[1].click();
  seen.ascending = values(1);
  const agents = selects.find((select) => select.getAttribute("aria-label") === "agent");
  agents.value = "ddpg";
  agents.dispatchEvent(new Event("change"));
  seen.filtered = rows().map((row) => row.dataset.series);
  seen.dots = all(".dot:not(.off)").map((dot) => dot.dataset.series);
  seen.count = one("#count").value;
  rows()[0].click();
  seen.dialog = one("dialog[open] h2").textContent;
  one("dialog[open] button").click();
  seen.drawn = all("figure:not(.off) svg").map((svg) => svg.getBoundingClientRect().height > 50);
  seen.hover = all("figure [data-label]").length;
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  const before = getComputedStyle(document.body).backgroundColor;
  one("#theme").click();
  seen.themes = [before, getComputedStyle(document.body).backgroundColor];
  const out = document.createElement("script");
  out.type = "application/json";
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>"""


def browsed(page: str, folder: Path, width: int) -> tuple[dict, str]:
    """What a script in the page saw in Chromium, and what the console said."""
    path = folder / "checked.html"
    head, _, tail = page.rpartition("<script>")
    path.write_text(f"{head}{CHECK}<script>{tail}")
    command = [
        str(CHROMIUM), "--no-sandbox", "--headless=new", "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1600", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r'<script type="application/json" id="seen">(.*?)</script>', done.stdout)
    return json.loads(found), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("own", [True, False])
def test_a_browser_draws_sorts_filters_and_opens(tmp_path, width, own):
    page = site.page(RUNS, title="Own") if own else report.committed_page()
    seen, console = browsed(page, tmp_path, width)
    assert seen["errors"] == []
    assert console == ""
    known = [float(value) for value in seen["descending"] if value]
    assert known == sorted(known, reverse=True)
    assert [float(value) for value in seen["ascending"] if value] == known[::-1]
    assert set(seen["filtered"]) == set(seen["dots"]) == {"ddpg"}
    assert seen["count"].startswith(f"{len(seen['filtered'])} of ")
    assert seen["dialog"].startswith(("ddpg", "plain20-cifar10-ddpg"))
    assert seen["drawn"]
    assert all(seen["drawn"])
    assert seen["hover"] > len(seen["dots"])
    assert seen["wide"] <= 0, "the page itself never scrolls sideways"
    assert len(set(seen["themes"])) == 2


def test_the_leaderboard_begins_with_the_network_of_most_runs_and_its_most_accurate_one():
    page = site.page([run("lone", 0, 0.95, model="another"), *RUNS], title="T")
    board = page[page.index('<table id="runs"') :]
    at = [board.index(name) for name in ("ddpg-1", "ddpg-0", "uniform-0", "lone-0")]
    assert at == sorted(at)


def test_texts_with_numbers_are_ordered_by_the_numbers():
    texts = ["seed=10", "5 % of the MACs", "100 % of the MACs", "seed=2", "30 % of the MACs", "gp"]
    assert sorted(texts, key=site._natural) == [
        "5 % of the MACs", "30 % of the MACs", "100 % of the MACs", "gp", "seed=2", "seed=10",
    ]  # fmt: skip


def test_a_run_in_the_folder_that_one_is_in_has_a_name(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    config = {
        "model": {"name": "net"}, "data": {"name": "digits"}, "protocol": {"resource": "macs", "target": 0.5},
        "agent": {"_target_": "agents.rules.Uniform"}, "seed": 0, "finetune": {"epochs": 1}, "deliver": True,
    }  # fmt: skip
    with RunRecord.create(folder, config, seeds={}) as record:
        record.add(reward=-0.5, episode=0, episode_seconds=1.0)
    monkeypatch.chdir(folder)
    assert [one.name for one in runs.load(Path())[0]] == ["mine"]


def test_pages_of_others_are_not_replaced(tmp_path):
    site.write(RUNS, tmp_path, title="T")
    site.refuse_others(tmp_path)
    for name in ("README.md", "index.html"):
        mine = tmp_path / "mine" / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("# My project")
        with pytest.raises(site.SiteError, match=f"{name} is no report and would be replaced"):
            site.refuse_others(mine.parent)
        mine.unlink()


def test_a_file_s_budget_is_what_it_keeps():
    layers = [{"kept": 10, "numbers": 90}, {"kept": 3, "numbers": 10}]
    assert runs._density(layers) == 0.13


def test_a_link_to_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "run #1"
    assert site._link(run("gp", 0, 0.8, folder=folder), "plan.json", tmp_path) == "run%20%231/plan.json"


def test_networks_of_ones_own_are_named_after_their_functions():
    names = [runs._network({"name": "import", "options": {"target": f"nets:{one}"}}) for one in "ab"]
    assert [*names, runs._network({"name": "plain20", "options": {}})] == ["nets:a", "nets:b", "plain20"]


def test_the_curve_of_a_staged_search_begins_where_its_last_stage_does():
    staged = run("gp", 0, 0.8, curve=((41, -0.5), (44, -0.25)), evaluations=60)
    (contest,) = contests.contests([staged, run("uniform", 0, 0.7)])
    curves = {curve.series: curve for curve in contests.learning(contest)}
    assert (curves["gp"].x[0], curves["gp"].x[-1]) == (41, 60)
    assert list(curves["gp"].y[:1]) == [-0.5]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.9251, 0.92515, 0.9252], ["0.92510", "0.92515", "0.92520"]),
        ([10_000, 20_000], ["10,000", "20,000"]), ([-0.002, 0], ["-0.002", "0.000"]), ([5], ["5"]), ([], []),
    ],
)  # fmt: skip
def test_ticks_have_the_decimals_that_tell_them_apart(values, texts):
    assert [text for _, text in charts.labelled(values)] == texts


def test_evaluations_and_decisions_have_whole_ticks():
    svg = charts.curves([charts.Curve("a", [0, 1, 2], [0.5, 0.6, 0.7])], "t", "decision", "y")
    assert re.findall(r'y="242.0">([^<]+)<', svg) == ["0", "1", "2"]


def test_layers_that_do_not_fit_below_a_plan_are_numbered():
    short, long = ([Kept(f"{name}{at}", 8, 4) for at in range(6)] for name in ("conv", "features.stage.conv"))
    assert "conv5" in charts.frame(short)
    assert "features" not in charts.frame(long)
    assert ">5</text>" in charts.frame(long)


def test_values_that_differ_by_rounding_alone_are_drawn_as_one():
    svg = charts.curves([charts.Curve("a", [1, 2], [-0.3, -0.30000000000000004])], "t", "x", "y")
    assert ">-0.30<" in svg
