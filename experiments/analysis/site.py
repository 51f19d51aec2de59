"""Makes tables, figures and a self-contained page from runs."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from omegaconf import OmegaConf

from amc_env import files
from amc_env.checks import number_of
from experiments.analysis import charts, contests, figures, latex, markdown
from experiments.analysis.charts import Curve
from experiments.analysis.contests import COSTS, HEAD, Contest
from experiments.analysis.run import Run

TEMPLATES = Path(__file__).parent / "templates"
PAGE, README = "index.html", "README.md"
FILTERS = f"The same with filters and a page a run: [{PAGE}]({PAGE})."  # stands in each README
LEADERBOARD = 'href="#leaderboard"'  # and this in each page
COLUMNS = [
    ("run", "text"), ("test, after", "number"), ("test, before", "number"), ("selection, before", "number"),
    ("agent", "text"), ("budget", "text"), ("network", "text"), ("data", "text"), ("seed", "number"),
    ("evaluations", "number"), ("MACs, %", "number"), ("parameters, %", "number"), ("kB", "number"),
    ("ms", "number"), ("seconds", "number"), ("status", "text"),
]  # fmt: skip
CHOICES = ("network", "data", "budget", "agent", "status")  # columns that filters choose from
CURVES = ("evaluations", "best reward so far")
KEEPS = ("decision, in forward order", "fraction that stays")
ACCURACY = "accuracy, %"


class SiteError(ValueError):
    """A folder that holds pages of somebody else."""


def refuse_others(folder: Path) -> None:
    """Raise a `SiteError` if a folder has an ``index.html`` or a ``README.md`` that is no report."""
    for name, mark in ((PAGE, LEADERBOARD), (README, FILTERS)):
        path = folder / name
        if path.exists() and mark not in path.read_text(errors="replace"):
            raise SiteError(f"{path} is no report and would be replaced: give another output=FOLDER")


def write(runs: Sequence[Run], folder: Path, *, title: str, notes: Sequence[str] = ()) -> list[Path]:
    """Write ``index.html``, ``README.md``, ``tables/`` and ``figures/`` into a folder."""
    every = contests.contests(runs)
    made = [_write(folder / PAGE, page(runs, title=title, notes=notes, folder=folder))]
    made += _tables(runs, every, folder / "tables")
    drawn = _figures(runs, every, folder / "figures")
    links = [f"![{path.stem}]({path.relative_to(folder)})" for path in drawn if path.suffix == ".svg"]
    text = [f"# {title}", FILTERS]
    text += [markdown.table(HEAD, contests.summary(every)), *links, *(f"* {note}" for note in notes)]
    made.append(_write(folder / README, "\n\n".join(text) + "\n"))
    return [*made, *drawn]


def page(
    runs: Sequence[Run],
    *,
    title: str,
    notes: Sequence[str] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    folder: Path | None = None,
) -> str:
    """The page of some runs; the same runs give the same text.

    Args:
        runs: at least one.
        title: of the page.
        notes: what was left out.
        tables: of the paper: ``title``, ``head``, ``rows`` and ``notes`` each.
        folder: of the page, for links to the files of a run.
    """
    every = contests.contests(runs)
    searched = [one for one in contests.by_reward(every) if contests.evaluations(one) > 1]
    known = Counter(run.problem for run in runs)
    runs = sorted(runs, key=lambda run: (-known[run.problem], run.problem, *_rank(run), run.name))
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    for kind in ("css", "js"):  # included as they are
        environment.globals[kind] = Markup((TEMPLATES / f"page.{kind}").read_text())
    environment.globals["number_of"] = number_of
    networks = {_sizes(run): run.plan for run in runs if run.plan}
    frames = {sizes: f"frame-{at}" for at, sizes in enumerate(networks)}
    rows = [_row(at, run, folder, frames.get(_sizes(run))) for at, run in enumerate(runs)]
    return environment.get_template("page.html.j2").render(
        title=title, runs=rows, agents=sorted({run.agent for run in runs}),
        problems=sorted({run.problem for run in runs}), commits=contests.commits(runs).replace("`", ""),
        columns=COLUMNS, choices=_choices(rows), tables=tables, notes=notes,
        curves=_drawn(searched, contests.learning, *CURVES), keeps=_drawn(every, contests.keeps, *KEEPS),
        fronts=_fronts(runs), head=HEAD, summary=contests.summary(every),
        frames=[(frames[sizes], _safe(charts.frame(plan))) for sizes, plan in networks.items()],
    )  # fmt: skip


def _rank(run: Run) -> tuple[float, ...]:
    """Test accuracies first: those on selection do not compare with them."""
    shown = [run.after.get("test", -1), run.before.get("test", -1), run.before.get("selection", -1)]
    return tuple(-value for value in shown)


def _sizes(run: Run) -> tuple[tuple[str, int], ...]:
    """What plans of one network share: the layers and sizes of its groups."""
    return tuple((one.layer, one.size) for one in run.plan)


def _row(at: int, run: Run, folder: Path | None, frame: str | None) -> dict[str, Any]:
    """A run for the template: a row of the leaderboard and a dialog; its plan fills a frame of the page."""
    measured = [run.after.get("test"), run.before.get("test"), run.before.get("selection")]
    costs = [run.costs.get(name) for name in ("macs_share", "params_share", "bytes", "ms")]
    named = [run.agent, contests.budget(run.resource, run.target), run.model, run.data]
    cells: list[tuple[str, object]] = [
        (run.name, run.name), *(_cell(value, 100, ".2f") for value in measured), 
        *((text, text) for text in named),
        (str(run.seed), run.seed), (f"{run.evaluations:,}", run.evaluations),
        *(_cell(value, 100, ".1f") for value in costs[:2]), _cell(costs[2], 1e-3, ".1f"),
        _cell(costs[3], 1, ".3g"), _cell(run.seconds, 1, ".0f"), (run.status, run.status),
    ]  # fmt: skip
    facts: list[tuple[str, object]] = [
        (name, shown) for (name, _), (shown, _) in zip(COLUMNS[1:], cells[1:], strict=True) if shown
    ]
    facts += [("epochs of fine-tuning", run.epochs)] if run.epochs is not None else []
    drawn = charts.plan(run.plan, f"plan of {run.name}", frame) if frame else ""
    return {
        "id": f"run-{at}", "name": run.name, "agent": run.agent, "cells": cells,
        "network": _network(*run.problem), "budget": contests.budget(run.resource, run.target),
        "facts": [*facts, ("commit", run.commit)], "command": run.command, "plan": _safe(drawn),
        "files": [(name, _link(run, name, folder)) for name in run.files],
        "config": OmegaConf.to_yaml(OmegaConf.create(dict(run.config)), sort_keys=True),
    }  # fmt: skip


def _cell(value: float | None, factor: float, form: str) -> tuple[str, object]:
    return ("", "") if value is None else (f"{factor * value:{form}}", round(factor * value, 6))


def _link(run: Run, name: str, folder: Path | None) -> str:
    assert run.folder is not None
    return quote(Path(os.path.relpath(run.folder / name, folder or Path())).as_posix(), safe="/=,+")


def _choices(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, list[str]]]:
    """Column, name and options of each filter with more than one option."""
    at = {name: place for place, (name, _) in enumerate(COLUMNS)}
    found = [
        (at[name], name, sorted({row["cells"][at[name]][0] for row in rows}, key=_natural))
        for name in CHOICES
    ]
    return [choice for choice in found if len(choice[2]) > 1]


def _natural(text: str) -> list[tuple[float, str]]:
    """Orders texts by the numbers in them."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if at % 2 else (-1.0, part) for at, part in enumerate(parts)]


def _drawn(
    every: Sequence[Contest], series: Callable[[Contest], list[Curve]], x_label: str, y_label: str
) -> list[dict[str, Any]]:
    """A chart for each contest that has any of these series."""
    return [
        {
            "title": one.title,
            "network": _network(one.model, one.data),
            "budget": contests.budget(one.resource, one.target),
            "svg": _safe(charts.curves(found, one.title, x_label, y_label)),
        }
        for one in every
        if (found := series(one))
    ]


def _fronts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A chart for each network and each known cost."""
    return [
        {
            "title": f"{_network(model, data)}: {COSTS[cost][0]}",
            "network": _network(model, data),
            "budget": "",
            "svg": _safe(charts.scatter(points, _network(model, data), COSTS[cost][0], ACCURACY)),
        }
        for model, data in sorted({run.problem for run in runs})
        for cost in COSTS
        if (points := contests.pareto([run for run in runs if run.problem == (model, data)], cost))
    ]


def _network(model: str, data: str) -> str:
    return f"{model} on {data}"


def _safe(svg: str) -> Any:
    """Markup that we made, with all text in it escaped."""
    return Markup(svg)


def _tables(runs: Sequence[Run], every: Sequence[Contest], folder: Path) -> list[Path]:
    """The means in Markdown, LaTeX and CSV, and every run in CSV."""
    rows = contests.summary(every)
    names = [name for name, _ in COLUMNS]
    lines = [[str(value) for _, value in _row(at, run, None, None)["cells"]] for at, run in enumerate(runs)]
    texts = {
        "summary.md": markdown.table(HEAD, rows) + "\n",
        "summary.tex": latex.table(HEAD, rows, "Accuracy in percent, means with 95 % intervals.") + "\n",
        "summary.csv": latex.values(HEAD, rows),
        "runs.csv": latex.values(names, lines),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def _figures(runs: Sequence[Run], every: Sequence[Contest], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    drawn = [("curves", one, contests.learning(one), CURVES) for one in contests.by_reward(every)]
    drawn += [("keep", one, contests.keeps(one), KEEPS) for one in every]
    for name, one, found, labels in drawn:
        if found:
            stem = f"{name}-{one.model}-{one.data}-{one.resource}-{100 * one.target:g}-{one.setting}"
            stem = re.sub(r"[^\w.]+", "-", stem).strip("-")
            made += figures.curves(found, folder / stem, one.title, *labels)
    for model, data in sorted({run.problem for run in runs}):
        own = [run for run in runs if run.problem == (model, data)]
        for cost, (label, _) in COSTS.items():
            if points := contests.pareto(own, cost):
                name = f"pareto-{model}-{data}-{cost}".replace("/", "-")
                made += figures.scatter(points, folder / name, _network(model, data), label, ACCURACY)
    return made


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text)
    return path
