"""Tables in LaTeX and in comma-separated values."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A ``tabular`` with booktabs' rules, in a ``table`` with a caption."""
    lines = [" & ".join(map(escaped, cells)) + r" \\" for cells in (head, *rows)]
    inner = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    body = "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", *inner, r"\end{tabular}"])
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}", body, r"\end{table}"]
    )


def escaped(text: str) -> str:
    """Text as LaTeX prints it; Markdown's code marks become typewriter type."""
    plain = "".join(SPECIAL.get(mark, mark) for mark in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", plain)


def values(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Comma-separated values with a line for the head; Markdown's code marks are left out."""
    text = io.StringIO()
    plain = ([cell.replace("`", "") for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows([head, *plain])
    return text.getvalue()
