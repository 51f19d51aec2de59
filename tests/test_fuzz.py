"""A file that was damaged, swapped or made up is refused by one of our errors, or read as it was."""

import random
from collections.abc import Iterator

import fault_records
import fuzzing
import pytest
from damageable import Kind, kinds
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = (
    "record.json", "record.jsonl", "record.jsonl of a running search", "plan.json",
    "plan of one's own", "search.state",
    "committed result", "training state", "card of a checkpoint", "weights of a checkpoint", ".onnx",
    ".sha256", ".packed", "card of a table", "table", "data set", "moments cache", "latency table",
    "latency table being measured", "critic", "card of a critic", "record in a report",
)  # fmt: skip
EACH = 250  # of 22 kinds: 5,500


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_CACHE", "")  # set by `kinds`, taken back here
        yield kinds(tmp_path_factory.mktemp("fuzz"))


def test_every_kind_is_named(made: dict[str, Kind]) -> None:
    assert tuple(made) == NAMES


def held(kind: Kind, examples: int) -> None:
    expected = kind.read()

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        end, how = fuzzing.end_of(kind, expected, random.Random(seed))
        assert end in ("refused", "equal", "before"), how

    run()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_or_equal(made: dict[str, Kind], name: str) -> None:
    held(made[name], 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_or_equal_under_300_mutations(made: dict[str, Kind], name: str) -> None:
    held(made[name], 300)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_mutations(made: dict[str, Kind]) -> None:
    """Counted for ``conf/SECURITY.md``: a row a kind."""
    faults = list[str]()
    for name, kind in made.items():
        found = fuzzing.fuzz(kind, EACH)
        counts = {end: found.ends[end] for end in ("refused", "equal", "before")}
        fault_records.keep("mutations", name, mutations=EACH, **counts, wrong=len(found.faults))
        faults += [f"{name}: {fault}" for fault in found.faults]
    assert not faults


def test_the_page_has_what_was_counted() -> None:
    assert fault_records.page() == fault_records.PAGE.read_text()
