"""Words in messages."""

import pytest

from amc_env.checks import number_of


@pytest.mark.parametrize(
    ("count", "words", "shown"),
    [
        (1, ("run",), "1 run"),
        (0, ("run",), "0 runs"),
        (1200, ("test image",), "1,200 test images"),
        (1, ("pass", "passes"), "1 pass"),
        (2, ("pass", "passes"), "2 passes"),
    ],
)
def test_a_noun_is_plural_but_for_one(count: int, words: tuple[str, ...], shown: str) -> None:
    assert number_of(count, *words) == shown
