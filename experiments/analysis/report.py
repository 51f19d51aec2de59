"""Tables and plots from the committed records; no number in them is typed by hand.

``python -m experiments.report`` writes the tables into the pages, between their markers, and the plots and a
page of all runs beside the records. With ``runs=FOLDER`` it reports on a folder of the user's own runs.
``python -m experiments.report keep RUN NAME`` copies a finished run into the committed records.
The NAME of a search starts with its agent, as in ``ddpg_elites-flops_30-0``. The NAME of a comparison is the
name of its table; its contenders are added to those already there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from amc_env import files, latency
from amc_env.checks import number_of
from experiments.analysis import (
    contests,
    curves,
    deep_compression,
    families,
    fidelity,
    figures,
    markdown,
    milliseconds,
    optima,
    published,
    regret,
    repairs,
    runs,
    site,
    survey,
    transfer,
    tuned,
    untuned,
)
from experiments.analysis.folders import (
    COMPRESSED,
    FAMILIES,
    FIDELITY,
    LATENCY,
    MILLISECONDS,
    NETWORKS,
    OPTIMA,
    PHOTOS,
    PRETRAINED,
    REGRET,
    REPAIRS,
    RESULTS,
    SEARCHES,
    TABLES,
    TUNED,
)
from experiments.analysis.joining import commits_in
from experiments.analysis.keeping import keep
from experiments.analysis.run import Run
from experiments.benchmarks import tables
from experiments.cli.signatures import ROOT
from experiments.recording.committed import read_committed
from experiments.recording.lock import alone
from experiments.recording.tracking import METRICS

README = ROOT / "README.md"
RESULTS_PAGE = RESULTS / "README.md"
AGENTS_PAGE = ROOT / "agents/README.md"
BENCHMARKS_PAGE = ROOT / "experiments/benchmarks/README.md"
BENCHMARKS = "benchmarks"  # a folder in results/ and the name of a block
ELITES = "elites"  # the name of a block: what the networks of `regret.OURS` add to `regret.ALONE`
FRONT = "plain20-cifar10-cutout"  # the record of `TUNED` on the front page

Records = Mapping[str, Mapping[str, Any]]


class ReportError(ValueError):
    """A record or page that a table cannot be made from."""


def run(cfg: DictConfig, folder: Path) -> None:
    """Rebuild all committed tables, report on a folder of runs, or keep a run's record."""
    if cfg.keep is not None:
        with alone(RESULTS, wait=True):
            print(keep(Path(cfg.keep), cfg.name))
    elif cfg.runs is not None:
        with alone(Path(cfg.output)):
            report_on(Path(cfg.runs), Path(cfg.output))
    else:
        with alone(RESULTS, wait=True):
            rebuild()


def report_on(folder: Path, output: Path) -> None:
    """Write the page, tables and figures of a folder of runs."""
    site.refuse_others(output)
    found, notes = runs.load(folder)
    made = site.write(found, output, title=f"Runs in {folder.resolve().name}", notes=notes)
    print(markdown.table(contests.HEAD, contests.summary(contests.contests(found))))
    for note in notes:
        print(note)
    print(f"{number_of(len(found), 'run')}, {number_of(len(made), 'file')}; open {output / site.PAGE}")


def rebuild() -> None:
    """Rebuild all pages, plots and tables from the committed records."""
    for page, blocks in pages().items():
        files.write(page, filled(page.read_text(), blocks))
        print(f"{page.relative_to(ROOT)}: written {', '.join(blocks)}")
    print(regret.plot(read(RESULTS / REGRET), RESULTS / REGRET / "regret.png"))
    for path in families.plots(read(RESULTS / FAMILIES), RESULTS / FAMILIES):
        print(path)
    for name, record in read(RESULTS / FIDELITY).items():
        print(fidelity.plot(record["rows"], RESULTS / FIDELITY / f"{name}.png"))
    for name, record in read(RESULTS / TUNED).items():
        if curves.searched(record["rows"]):
            print(curves.plot(record["rows"], RESULTS / TUNED / f"{name}.png"))
    for name, record in read(RESULTS / MILLISECONDS).items():
        print(milliseconds.plot(record["rows"], RESULTS / MILLISECONDS / f"{name}.png", name))
    if unlabelled := read(RESULTS / PHOTOS):
        print(*untuned.plot(unlabelled.values(), RESULTS / PHOTOS / "agreement"))
    print(*papers_figures(committed()))
    files.write(RESULTS / site.PAGE, committed_page())
    print(RESULTS / site.PAGE)


def papers_figures(found: Sequence[Run]) -> list[Path]:
    """The papers' figures with ours in them."""
    title = "Plain-20 at 50 % of the FLOPs: the paper's plans and ours"
    made = figures.curves(published.keeps("figure2", found), RESULTS / TABLES / "figure2", title, *site.KEEPS)
    title = "Weights kept: the paper's ResNet-50 and our ResNet-56"
    labels = "first layer (0), stages, classifier (5)", "weights kept, %"
    drawn = published.densities("densities", found, "ddpg_paper")
    return made + figures.curves(drawn, RESULTS / TABLES / "densities", title, *labels)


def committed() -> list[Run]:
    """All searches in committed records, and what races measured of their networks."""
    found = [
        (path.stem, run)
        for folder in (SEARCHES, TUNED, TABLES, COMPRESSED)
        for path in sorted((RESULTS / folder).rglob("*.json"))
        for run in runs.read(path, str(path.relative_to(RESULTS / folder).with_suffix("")))
    ]
    return milliseconds.raced(_by_record(found), read(RESULTS / MILLISECONDS))


def _by_record(found: Sequence[tuple[str, Run]]) -> list[Run]:
    """Runs, each after the name of its record; those that would be one seed twice are told apart by it."""
    seen, kept = set[tuple[Any, ...]](), list[Run]()
    for record, run in found:
        one = (run.problem, run.resource, run.target, run.setting, run.agent, run.seed)
        setting = record.removesuffix(f"-{run.seed}")  # records of Deep Compression have one seed each
        kept.append(replace(run, agent=f"{run.agent} ({setting})") if one in seen else run)
        seen.add(one)
    return kept


def committed_page() -> str:
    """The page of all committed searches."""
    found = committed()
    made = [asdict(published.beside(name, found)) for name in published.tables()]
    return site.page(found, title="AMC: committed searches", tables=made, notes=runs.units(found))


def paper() -> str:
    """The papers' tables beside ours."""
    found, parts = committed(), []
    for name in published.tables():
        made = published.beside(name, found)
        parts += [f"**{made.title}**", markdown.table(made.head, made.rows)]
        parts.append("\n".join(f"* {note}" for note in made.notes))
    return "\n\n".join(parts)


def pages() -> dict[Path, dict[str, str]]:
    """The blocks of each page, by the name of their markers."""
    packed, ways = read(RESULTS / COMPRESSED), read(RESULTS / FAMILIES)
    measured = read(RESULTS / REPAIRS), read(RESULTS / FIDELITY)
    if twice := sorted(measured[0].keys() & measured[1].keys()):
        raise ReportError(f"{', '.join(twice)}: kept in {REPAIRS} and in {FIDELITY}; remove the former")
    mended = repairs.measured(measured[0] | measured[1])
    speed, compared = read(RESULTS / BENCHMARKS), read(RESULTS / REGRET)
    front = read(RESULTS / TUNED)[FRONT]
    return {
        README: {"results": tuned.summary(front["rows"]) + tuned.older_critics(front)},
        RESULTS_PAGE: {
            TABLES: paper(),
            TUNED: tuned_policies(),
            FIDELITY: rows_of(FIDELITY, fidelity.table),
            LATENCY: milliseconds.fits(
                {path.stem: latency.read(path) for path in sorted((RESULTS / LATENCY).glob("*.json"))}
            ),
            MILLISECONDS: rows_of(MILLISECONDS, milliseconds.table),
            REGRET: f"{regret.by_table(compared)}\n\n{recorded(compared)}",
            OPTIMA: rows_of(OPTIMA, optima.table),
            COMPRESSED: f"{deep_compression.tables(packed)}\n\n{recorded(packed)}",
            FAMILIES: f"{families.tables(ways)}\n\n{recorded(ways)}",
            NETWORKS: rows_of(NETWORKS, survey.table),
            PHOTOS: photographs(),
            REPAIRS: f"{repairs.table(mended)}\n\n{recorded(mended)}" if mended else "",
            "metrics": metrics(),
        },
        AGENTS_PAGE: {
            REGRET: "\n\n".join(
                (regret.table(compared), regret.against(compared, regret.BEST), recorded(compared))
            ),
            PRETRAINED: rows_of(PRETRAINED, transfer.tables),
            ELITES: regret.against(compared, regret.ALONE, (regret.OURS, "no_actor", "one_draw")),
        },
        BENCHMARKS_PAGE: {BENCHMARKS: f"{tables.table(speed)}\n\n{recorded(speed)}"},
    }


def tuned_policies() -> str:
    """Policies before and after fine-tuning, a table for each record and target."""
    found = read(RESULTS / TUNED)
    parts = [
        f"`{name}`:\n\n{tuned.table(record['rows'], record['config'].get('resource', 'macs'))}"
        f"{tuned.older_critics(record)}\n\n{recorded({name: record})}"
        for name, record in found.items()
    ]
    return "\n\n".join(parts)


def photographs() -> str:
    """Policies on photographs, without training."""
    found = read(RESULTS / PHOTOS)
    return f"{untuned.table(found.values())}\n\n{recorded(found)}" if found else ""


def metrics() -> str:
    """The table of what is logged."""
    return markdown.table(["metric", "meaning"], [[f"`{name}`", text] for name, text in METRICS.items()])


def recorded(records: Records) -> str:
    """A line with the commits of the code that made these records."""
    commits = {
        commit[:9]
        for record in records.values()
        for commits in (record.get("commits") or {"all": record["commit"]}).values()
        for commit in commits_in(commits)
    }
    return f"Recorded at {', '.join(f'`{commit}`' for commit in sorted(commits))}."


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder, by name."""
    return {path.stem: read_committed(path) for path in sorted(folder.glob("*.json"))}


def rows_of(folder: str, table: Callable[[Sequence[Mapping[str, Any]]], str]) -> str:
    """A table for each record in a folder of results, with its commit."""
    parts = []
    for name, record in read(RESULTS / folder).items():
        parts += [f"`{name}`:", table(record["rows"]), recorded({name: record})]
    return "\n\n".join(parts)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page's text with the content of its blocks replaced, see `place`."""
    for name, block in blocks.items():
        text = place(text, name, block)
    return text


def place(text: str, name: str, block: str) -> str:
    """The text with everything between ``<!-- name -->`` and ``<!-- /name -->`` replaced.

    Raises:
        ReportError: when the markers are not there exactly once.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ReportError(f"the page needs {start} and {end}, once each")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{block}\n{end}{after}"
