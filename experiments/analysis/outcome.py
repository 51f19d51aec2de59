"""Writes the results of a search as files: a table of its networks, pictures of curve and plan."""

from pathlib import Path

from experiments.analysis import contests, figures, latex, runs
from experiments.recording.record import RunRecord

NETWORKS = "networks.csv"
HEAD = ["network", "macs", "params", "file_bytes", "selection", "test"]


def write(record: RunRecord) -> list[Path]:
    """Write ``networks.csv`` of a delivered search, ``learning.png`` and ``keep.png`` into its folder."""
    content = record.content | {"rows": record.rows}
    (run,) = runs.of_record(record.folder.name, content, record.folder)
    (contest,) = contests.contests([run])
    made = []
    if table := content["results"].get("table"):
        rows = [[name, *(str(row[key]) for key in HEAD[1:])] for name, row in table.items()]
        (record.folder / NETWORKS).write_text(latex.values(HEAD, rows))
        made.append(record.folder / NETWORKS)
    for name, series, labels in (
        ("learning", contests.learning(contest), ("evaluations", "best reward so far")),
        ("keep", contests.keeps(contest), ("decision, in forward order", "fraction that stays")),
    ):
        if series:
            made += figures.curves(series, record.folder / name, contest.title, *labels, endings=["png"])
    return made
