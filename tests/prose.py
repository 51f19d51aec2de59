"""The decimal numbers in the prose of a page, and the cells of tables and records that they repeat."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from experiments.analysis import published
from experiments.analysis.report import RESULTS, RESULTS_PAGE
from experiments.cli.signatures import ROOT

Numbers = Mapping[str, Sequence[float]]  # the numbers of a paragraph, by the words it begins with
CUTOUT = "plain20-cifar10-cutout"
EARLIER = 86.8  # test accuracy of the weights of Plain-20 before the shipped ones, which no card states
BLOCK = re.compile(r"<!-- (\w+) -->(.*?)<!-- /\1 -->", re.DOTALL)  # a table that `make report` writes
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?!\w|\.\d)")


def paragraphs(text: str) -> list[str]:
    """Paragraphs, list items and rows written by hand, each on one line, without code and addresses."""
    text = re.sub(r"^```.*?^```$", "", BLOCK.sub("", text), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", lambda found: NUMBER.sub("_", found[0]), text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts = re.split(r"\n\s*\n|\n(?=\* |\| |\d\. )", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def numbers(paragraph: str) -> list[str]:
    """The decimal numbers of a paragraph, in order."""
    return NUMBER.findall(paragraph)


def agrees(printed: str, value: float) -> bool:
    """Whether a number, be it negative, is printed at this rounding.

    Cells of tables have two places, so one with a single place may be a hundredth further off.
    """
    places = len(printed.partition(".")[2])
    return abs(float(printed) - abs(value)) <= 0.5 * 10**-places + (0.01 if places == 1 else 0) + 1e-9


@cache
def _lines(page: Path, block: str) -> list[str]:
    found = {name: text.splitlines() for name, text in BLOCK.findall(page.read_text())}
    return found[block]


def cell(block: str, titles: str, row: str, column: str, page: Path = RESULTS_PAGE) -> float:
    """The number in a cell of a table, without its interval.

    Args:
        block: the name of its markers.
        titles: the starts of lines above it, separated by `` > ``, the outermost first.
        row: how the row's cells begin, joined by spaces.
        column: its name, or the start of it if that is unique.
        page: that the table stands on.
    """
    head, rows = _table(page, block, titles)
    (found,) = (line for line in rows if f"{' '.join(line)} ".startswith(f"{row} "))
    return _number(found[_at(head, column)])


def column(block: str, titles: str, name: str) -> list[float]:
    """The numbers of a column, see `cell`."""
    head, rows = _table(RESULTS_PAGE, block, titles)
    return [_number(line[_at(head, name)]) for line in rows]


@cache
def _table(page: Path, block: str, titles: str) -> tuple[list[str], list[list[str]]]:
    """The first table below these titles, its head apart."""
    lines = _lines(page, block)
    for title in filter(None, titles.split(" > ")):
        at = next(i for i, line in enumerate(lines) if line.strip("*`").startswith(title))
        lines = lines[at + 1 :]
    lines = list(dropwhile(lambda line: not line.startswith("|"), lines))
    head, _, *rows = [
        [one.strip() for one in line[1:].removesuffix("|").split(" | ")]
        for line in takewhile(lambda line: line.startswith("|"), lines)
    ]
    return head, rows


def _at(head: list[str], column: str) -> int:
    starts = [i for i, name in enumerate(head) if name.startswith(column)]
    (found,) = [i for i in starts if head[i] == column] or starts
    return found


def _number(text: str) -> float:
    return float(text.split()[0].replace(",", "").rstrip("%x"))


@cache
def record(name: str) -> Mapping[str, Any]:
    """A record in the folder of results."""
    content: Mapping[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def shipped(name: str, split: str = "test") -> float:
    """The accuracy in percent that the card of a shipped checkpoint states."""
    card = json.loads((ROOT / f"amc_env/zoo/checkpoints/{name}.json").read_text())
    return 100 * float(card["accuracy"][split])


def theirs(table: str, row: str, column: str) -> float:
    """A number of a paper, from `published.yaml`."""
    (found,) = (one for one in published.tables()[table]["rows"] if one["name"] == row)
    return float(found[column])


def within(*points: float) -> float:
    """The least tenth of a point that none of these exceeds."""
    return math.ceil(10 * max(map(abs, points))) / 10


def tuned(policy: str, target: int, name: str = CUTOUT, stage: str = "after") -> float:
    """Test accuracy of a policy in percent."""
    return cell("tuned", f"{name}` > {target} % of", f"`{policy}`", f"test, {stage} fine-tuning")


def lead(policy: str, target: int, name: str = CUTOUT) -> float:
    """Points above the uniform policy after fine-tuning."""
    return cell("tuned", f"{name}` > {target} % of", f"`{policy}`", "above `uniform`")


def leads(target: int, name: str, *policies: str) -> list[float]:
    """The lowest and the highest lead of these policies."""
    found = [lead(policy, target, name) for policy in policies]
    return [min(found), max(found)]


def photo(policy: str, target: int) -> float:
    """Agreement with the dense network in percent."""
    return cell("photos", f"{target} % of", f"`{policy}`", "agreement, %")


def row(start: str, column: str = "test % after, ours") -> float:
    """A cell of the papers' tables, by how its row begins."""
    titles = {"VGG": "Table 3", "Mob": "Table 3", "FCO": "Detection", "AMC": "MobileNet,"}
    return cell("tables", titles.get(start[:3], "Table 2"), start, column)


def above(start: str, other: str) -> float:
    return row(start) - row(other)


def density(share: int, policy: str) -> float:
    """Points above one density for all layers, of single weights of ResNet-56."""
    title = "Figures 3 and 4"
    own, even = (
        cell("tables", title, f"ResNet-56, {share} %, {which}", "test % after, ours")
        for which in (policy, "one density")
    )
    return own - even


def way(title: str, start: str, column: str = "fine-tuned") -> float:
    return cell("families", title, start, column)


def rate(name: str) -> float:
    """The learning rate of a record's fine-tuning."""
    return float(record(name)["config"]["recipe"]["lr"])


def dense(name: str) -> float:
    """Test accuracy of the dense network of a record."""
    return 100 * float(record(name)["results"]["dense"]["test"])


def rank(name: str, proxy: str = "elimination, sequential top1") -> float:
    """Rank correlation of a proxy, or of another tuning, with the tuned accuracy."""
    return cell("fidelity", f"{name}`", proxy, "Spearman")


def ceiling(name: str) -> float:
    return rank(name, "*fine-tuned, another seed*")
