"""The best plans of a search, from its rows."""

import math

from experiments.recording.plans import best_reward, candidates


def row(episode: int, counts: list[int], reward: float) -> dict[str, object]:
    return {"episode": episode, "counts": counts, "reward": reward}


def test_each_plan_once_best_first_and_of_equals_the_earliest() -> None:
    rows = [row(0, [1], -0.3), row(1, [2], -0.1), row(2, [1], -0.3), row(3, [3], -0.1), row(4, [4], -0.4)]
    assert [found["episode"] for found in candidates(rows, 3)] == [1, 3, 0]
    assert len(candidates(rows, 10)) == 4


def test_the_largest_reward_of_a_record() -> None:
    assert best_reward([row(0, [1], -0.3), row(1, [2], -0.1), row(2, [1], -0.2)]) == -0.1
    assert best_reward([]) == -math.inf
