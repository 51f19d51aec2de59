"""Tables are made from records alone."""

import re

import pytest

from experiments.analysis import markdown
from experiments.analysis.report import (
    README,
    ReportError,
    filled,
    pages,
    place,
    recorded,
)


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    assert place("a <!-- t --> old <!-- /t --> b", "t", "new") == "a <!-- t -->\nnew\n<!-- /t --> b"
    with pytest.raises(ReportError, match="once each"):
        place("a <!-- t --> b", "t", "new")


def test_the_pages_hold_what_the_records_say() -> None:
    for page, blocks in pages().items():
        text = page.read_text()
        assert filled(text, blocks) == text, f"{page.name}: run `make report`"


def test_the_front_page_is_a_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"<!-- \w+ -->", text)) <= 1


def test_commits_are_named_once_whichever_key_holds_them() -> None:
    records = {"a": {"commit": "b" * 40 + "-dirty"}, "c": {"commit": "d" * 40, "commits": {"x": "b" * 40}}}
    assert recorded(records) == f"Recorded at `{'b' * 9}`."


def test_a_table_for_a_page_and_one_for_a_terminal() -> None:
    assert markdown.table(["a", "b"], [["1", "22"]]) == "| a | b |\n|-|-|\n| 1 | 22 |"
    assert markdown.aligned(["a", "long"], [["1", "2"], ["333", ""]], right=["a"]) == (
        "|   a | long |\n| --: | ---- |\n|   1 | 2    |\n| 333 |      |"
    )
