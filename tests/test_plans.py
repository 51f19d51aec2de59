"""Which of a search's plans are worth a second look."""

import numpy as np
import pytest

from agents.search import Best
from experiments.recording.plans import candidates, leaders


def row(episode: int, counts: list[int], reward: float, images: int = 100) -> dict[str, object]:
    return {"episode": episode, "counts": counts, "reward": reward, "n_images": images}


def test_each_plan_once_best_first_and_of_equals_the_earliest() -> None:
    rows = [row(0, [1], -0.3), row(1, [2], -0.1), row(2, [1], -0.3), row(3, [3], -0.1), row(4, [4], -0.4)]
    assert [found["episode"] for found in candidates(rows, 3)] == [1, 3, 0]
    assert len(candidates(rows, 10)) == 4


def test_a_plan_that_was_stopped_at_first_stands_with_all_its_images() -> None:
    """The best is the row that a search took for it, which a resumed one must find again."""
    rows = [row(0, [1], -0.5), row(1, [2], -0.6, 20), row(2, [2], -0.4), row(3, [2], -0.45, 40)]
    assert [found["episode"] for found in candidates(rows, 2)] == [2, 0]
    rows = [row(0, [1], -0.5, 20), row(1, [2], -0.3), row(2, [1], -0.3)]
    assert [found["episode"] for found in candidates(rows, 2)] == [1, 2]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("targets", [(None,), (0.3, 0.5)])
def test_the_leaders_of_a_record_are_those_that_its_search_had(
    count: int, targets: tuple[float | None]
) -> None:
    rng, rows, online = np.random.default_rng(0), [], Best(count)
    for episode in range(60):
        target, kept = targets[rng.integers(len(targets))], int(rng.integers(12))
        images = 100 if episode < 5 else int(rng.choice([30, 100]))
        rows.append(row(episode, [kept], -(kept // 2) / 10, images) | {"target": target})
        online.note(rows[-1]["reward"], (kept,), target, images)
        again = Best(count)
        for known in leaders(rows, count):
            again.note(known["reward"], tuple(known["counts"]), known["target"], known["n_images"])
        assert again.leaders == online.leaders
    assert online.leaders is not None
