"""Which of a search's plans are worth a second look."""

import math

from experiments.recording.plans import best_reward, candidates


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


def test_the_largest_reward_of_a_record() -> None:
    assert best_reward([row(0, [1], -0.3), row(1, [2], -0.1), row(2, [1], -0.2)]) == -0.1
    assert best_reward([]) == -math.inf
