"""Tables in Markdown."""

from collections.abc import Collection, Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: a head, a rule, and a line a row."""
    return "\n".join([_line(head), "|-" * len(head) + "|", *map(_line, rows)])


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """A table whose columns are padded to one width, so that a terminal shows it as one.

    Args:
        head: the names of the columns.
        rows: the cells of each row.
        right: names of the columns that are set flush right.
    """
    widths = [max(2, *map(len, column)) for column in zip(head, *rows, strict=True)]
    ends = [name in right for name in head]
    rule = ["-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, ends, strict=True)]
    return "\n".join(
        _line(
            [
                cell.rjust(width) if end else cell.ljust(width)
                for cell, width, end in zip(line, widths, ends, strict=True)
            ]
        )
        for line in (head, rule, *rows)
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
