"""The job of `experiments.reproduce`: runs what is missing of a table, then prints it beside the paper's.

Every row is a file in ``conf/experiment``, so that one can be run alone. The runs are sweeps of
`experiments.search`, in processes of their own, and go wherever a launcher sends them; what is shown here is
read from their records.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from agents.rules import is_rule
from amc_env import files
from experiments.analysis import figures, latex, markdown, published
from experiments.analysis import runs as known
from experiments.analysis.run import Run
from experiments.cli.config import CONF, FULL_ERROR
from experiments.recording.progress import Meter
from experiments.recording.record import RECORD, RecordError, RunRecord

LOG = "sweep.log"
POLL = 5.0  # seconds between two looks at the records


class Job(NamedTuple):
    """The keys of a command's seed and epochs, and the metric that a row counts."""

    seed: str
    epochs: tuple[str, ...]
    counted: str

    @property
    def naming(self) -> tuple[str, ...]:
        """The keys of a command line that tell the folders of a table apart."""
        return ("experiment", self.seed, "episodes", *self.epochs)


PARTS = ("recipe", "sharing")  # whose epochs `experiments.deep_compress` trains
JOBS = {
    "search": Job("seed", ("finetune.epochs",), "reward"),
    "deep_compress": Job("recipe.seed", ("recipe.epochs", "sharing.epochs"), "train/loss"),
}


class ReproduceError(RuntimeError):
    """A table that cannot be run, or has failed runs."""


class Sweep(NamedTuple):
    """Runs that are launched together: their command, its line, and the evaluations or epochs of each."""

    words: list[str]
    runs: int
    episodes: int
    job: str = "search"


def main(cfg: DictConfig, folder: Path) -> None:
    """Run what is missing, then print and write the table.

    Raises:
        ReproduceError: at the end, when runs failed.
    """
    asked = published.spec(cfg.table)
    rows = chosen(asked, cfg.rows)
    if "folder" in asked and folder.name == cfg.table:  # figure 2 is of the runs of table 2
        folder = folder.with_name(asked["folder"])
    usual, folder = folder, of_settings(folder, cfg)
    folder.mkdir(parents=True, exist_ok=True)
    for name, needed in asked.get("prepare", {}).items():
        if any(name in row for row in rows) and not Path(needed["file"]).exists():
            job, words = needed.get("job", "pretrain"), [*needed["words"], *_data(cfg.images)]
            if _is_set(cfg.images):
                raise ReproduceError(
                    f"{name} needs {needed['file']}, which is not of {cfg.images}: choose other rows"
                )
            print(f"first: python -m experiments.{job} {shlex.join(words)}")
            _call(job, words)
    wanted = sweeps(cfg, rows, folder)
    total = sum(sweep.runs * sweep.episodes for sweep in wanted)
    before = [counted(folder, sweep)[0] for sweep in wanted]
    (folder / LOG).unlink(missing_ok=True)
    with Meter("evaluations" if asked.get("job") is None else "epochs", total, done=sum(before)) as meter:
        failed = []
        for at, sweep in enumerate(wanted):
            past = sum(one.runs * one.episodes for one in wanted[:at])
            left = sum(before[at + 1 :])
            if (log := launched(sweep, folder, meter, past + left)) is not None:
                failed.append(log)
    show(cfg.table, folder)
    if folder == usual:  # a short try or one on other data is no row of the paper's table
        print("to commit a run: python -m experiments.report keep RUN NAME")
    if failed:
        raise ReproduceError(f"runs failed, the same command goes on with them:\n{failed[0]}")


def of_settings(folder: Path, cfg: DictConfig) -> Path:
    """The folder of a table's runs; short tries and other data sets have their own."""
    parts = [cfg.images] if _is_set(cfg.images) else []
    parts += [f"{key}{cfg[key]}" for key in ("episodes", "epochs") if cfg[key] is not None]
    return folder.with_name("-".join([folder.name, *parts]))


def chosen(asked: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The experiment files of a table, or those named.

    Raises:
        ReproduceError: for an unknown name.
    """
    rows = [row["row"] for row in asked["rows"] if "row" in row]
    short = {row.rpartition("/")[2]: row for row in rows}
    if unknown := [name for name in names if name not in short]:
        raise ReproduceError(f"no row {', '.join(unknown)} in this table; there are {', '.join(short)}")
    return [short[name] for name in names] or list(dict.fromkeys(rows))


def sweeps(cfg: DictConfig, rows: Sequence[str], folder: Path) -> list[Sweep]:
    """The command lines for some rows: one for searches, one for rules, which play one episode."""
    asked = published.spec(cfg.table)
    job = asked.get("job", "search")
    seeds = list(cfg.seeds) if cfg.seeds is not None else list(range(asked["seeds"]))
    kinds: dict[tuple[bool, int], list[str]] = {}
    for row in rows:
        kinds.setdefault(_length(cfg, row, job), []).append(row)
    found = []
    for (fixed, episodes), names in kinds.items():
        words = [f"experiment={','.join(names)}", f"{JOBS[job].seed}={','.join(map(str, seeds))}"]
        words += [] if fixed or cfg.episodes is None else [f"episodes={episodes}"]
        words += [] if cfg.epochs is None else [f"{key}={cfg.epochs}" for key in JOBS[job].epochs]
        words += [*_data(cfg.images), f"hydra/launcher={cfg.launcher}", f"output={folder}"]
        found.append(Sweep(words, len(names) * len(seeds), episodes, job))
    return found


def _length(cfg: DictConfig, row: str, job: str) -> tuple[bool, int]:
    """Whether ``episodes`` changes nothing for a row, and the evaluations or epochs of one of its runs."""
    composed = compose("config" if job == "search" else job, [f"experiment={row}"])
    if job == "deep_compress":
        pruning, sharing = (composed[part].epochs if cfg.epochs is None else cfg.epochs for part in PARTS)
        return True, composed.rounds * pruning + sharing
    rule = is_rule(str(composed.agent._target_))
    return rule, composed.episodes if rule or cfg.episodes is None else cfg.episodes


def launched(sweep: Sweep, folder: Path, meter: Meter, others: int) -> str | None:
    """Run a sweep and show its progress; returns the end of its log if runs failed, else None.

    Args:
        sweep: what is run.
        folder: of the table.
        meter: counts over the whole table.
        others: progress of its other sweeps.
    """
    log = folder / LOG
    meter.say(f"python -m experiments.{sweep.job} -m {shlex.join(sweep.words)}")
    total = sweep.runs * sweep.episodes
    done, _ = counted(folder, sweep)
    with log.open("a") as file:
        command = [sys.executable, "-m", f"experiments.{sweep.job}", "-m", *sweep.words]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=_environment())
        try:
            while process.poll() is None:
                time.sleep(POLL)
                now, finished = counted(folder, sweep)
                done = max(done, now)  # a resumed search plays its last episodes again
                meter.update(
                    others + min(done, total - (finished < sweep.runs)),
                    runs=f"{finished} of {sweep.runs} finished",
                )
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return "\n".join(log.read_text().splitlines()[-12:]) if process.returncode else None


def counted(folder: Path, sweep: Sweep) -> tuple[int, int]:
    """The progress and the finished runs of a sweep, by the records in its folders."""
    job = JOBS[sweep.job]
    wanted = {
        key: {f"{key}={value}" for value in values.replace("/", "_").split(",")}
        for key, _, values in (word.partition("=") for word in sweep.words)
        if key in job.naming
    }
    done = finished = 0
    for path in folder.glob(f"*/{RECORD}"):
        parts = set(path.parent.name.split(","))
        if not all(parts & those for those in wanted.values()):
            continue
        try:
            record = RunRecord.read(path.parent)
        except RecordError:
            continue  # it is being written
        over = record.content["status"] == "finished"
        rows = sum(job.counted in row for row in record.rows)
        done, finished = done + (sweep.episodes if over else min(rows, sweep.episodes)), finished + over
    return done, finished


def show(table: str, folder: Path) -> None:
    """Print a table beside the paper's, and write it in Markdown, LaTeX and CSV, and its figure."""
    try:
        own, notes = known.load(folder)
    except known.RunsError:
        own, notes = [], []
    made = published.beside(table, own)
    print(f"\n{made.title}\n\n{markdown.aligned(made.head, made.rows, right=made.head[1:])}\n")
    for note in [*made.notes, *notes]:
        print(f"* {note}")
    parts = layer_tables(table, own)
    print("\n\n".join(["", *parts]))
    texts = {
        "md": f"# {made.title}\n\n{markdown.table(made.head, made.rows)}\n\n"
        + "".join(f"* {note}\n" for note in [*made.notes, *notes])
        + "".join(f"\n{part}\n" for part in parts),
        "tex": latex.table(made.head, made.rows, made.title) + "\n",
        "csv": latex.values(made.head, made.rows),
    }
    for ending, text in texts.items():
        files.write(folder / f"{table}.{ending}", text)
    if drawn := published.keeps(table, own):
        figures.curves(
            drawn, folder / f"{table}-keep", made.title, "decision, in forward order", "fraction that stays"
        )
    print(f"written: {folder}/{table}.md, .tex, .csv")


def layer_tables(table: str, own: Sequence[Run]) -> list[str]:
    """For each row whose runs write a compressed file, the layers of the first run beside the paper's."""
    found = []
    for row in published.spec(table)["rows"]:
        for run in published.of_row(own, row)[:1]:
            if run.folder is not None and (results := RunRecord.read(run.folder).content["results"]).get(
                "layers"
            ):
                found.append(f"**{row['name']}, seed {run.seed}**\n\n{published.layers(row, results)}")
    return found


def _data(asked: str | None) -> list[str]:
    """Overrides for another data set, or for a folder that holds the raw files of the one asked for.

    Raises:
        ReproduceError: for anything else.
    """
    if asked is None:
        return []
    if asked in (sets := _sets()):
        return [f"data={asked}"]
    if Path(asked).is_dir():
        return [f"data.root={Path(asked).absolute()}"]
    raise ReproduceError(f"images={asked} is neither a folder nor one of {', '.join(sets)}")


def _sets() -> list[str]:
    """The data sets of ``conf/data`` that need no further setting."""
    files_of = {path.stem: OmegaConf.load(path) for path in sorted((CONF / "data").glob("*.yaml"))}
    return [name for name, content in files_of.items() if not OmegaConf.missing_keys(content)]


def _is_set(name: str | None) -> bool:
    """Whether a data set is meant, not a folder."""
    return name in _sets()


def _call(job: str, words: Sequence[str]) -> None:
    command = [sys.executable, "-m", f"experiments.{job}", *words]
    done = subprocess.run(command, check=False, env=_environment())
    if done.returncode:
        raise ReproduceError(f"experiments.{job} ended with {done.returncode}: the same command goes on")


def _environment() -> dict[str, str]:
    """Ours without Hydra's switch for tracebacks, which is on while a command runs."""
    return {name: value for name, value in os.environ.items() if name != FULL_ERROR}
