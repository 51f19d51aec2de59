"""Which plans of a search are measured again."""

from experiments.recording import plans


def row(episode, reward, *counts):
    return {"episode": episode, "reward": reward, "counts": list(counts)}


def test_candidates_are_the_best_plans_each_once():
    rows = [row(0, 0.7, 60), row(1, 1.0, 100), row(2, 0.9, 90), row(3, 1.0, 100), row(4, 0.9, 80)]
    assert [found["episode"] for found in plans.candidates(rows, 3)] == [1, 2, 4]
    assert [found["episode"] for found in plans.candidates(rows, 9)] == [1, 2, 4, 0]
