"""The observation, against hand-computed values."""

import numpy as np
from networks import NETWORKS, SHAPE, network

from amc_env.graph.trace import trace
from amc_env.observation import FEATURES, Embedding


def test_the_features_of_the_paper_in_its_order():
    assert FEATURES == ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "previous")


def test_by_hand_on_the_chain():
    """Decisions: 8 -> 12 (3 x 3, stride 2, on 8 x 8), 12 -> 16 (3 x 3, on 4 x 4), the classifier 16 -> 4."""
    graph = trace(network("chain"), SHAPE)
    embed = Embedding(graph, np.array([1000, 2000, 6000, 1000]))
    expected = [
        # t    n        c       h    w    stride k    cost reduced rest previous
        (0.0, 12 / 16, 8 / 16, 1.0, 1.0, 1.0, 1.0, 0.2, 0.0, 0.7, 1.0),
        (0.5, 16 / 16, 12 / 16, 0.5, 0.5, 0.5, 1.0, 0.6, 0.25, 0.1, 0.625),
        (1.0, 4 / 16, 16 / 16, 0.125, 0.125, 0.5, 1 / 3, 0.1, 0.5, 0.0, 0.75),
        (1.0, 4 / 16, 16 / 16, 0.125, 0.125, 0.5, 1 / 3, 0.1, 0.75, 0.0, 0.25),  # after the last decision
    ]
    found = [embed(0, 0.0, 1.0), embed(1, 0.25, 0.625), embed(2, 0.5, 0.75), embed(3, 0.75, 0.25)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert {values.dtype for values in found} == {np.dtype(np.float32)}


def test_always_in_the_unit_interval_and_every_decision_looks_different():
    for name in NETWORKS:
        graph = trace(network(name), SHAPE)
        costs = np.arange(1, len(graph.layers) + 1)
        for reduced, previous in ((0.0, 1.0), (1.0, 0.0), (1.0 + 1e-12, 0.5)):
            rows = [Embedding(graph, costs)(t, reduced, previous) for t in range(len(graph.groups) + 1)]
            assert all(row.shape == (11,) and (row >= 0).all() and (row <= 1).all() for row in rows)
            assert len({row.tobytes() for row in rows[:-1]}) == len(graph.groups)


def test_what_a_caller_does_to_an_observation_stays_with_the_caller():
    embed = Embedding(trace(network("chain"), SHAPE), np.ones(4, dtype=np.int64))
    embed(0, 0.0, 1.0)[:] = 9
    assert embed(0, 0.0, 1.0).max() <= 1


def test_height_and_width_are_told_apart():
    """Images of 8 x 5: the second decision reads 4 x 3, the third a vector."""
    graph = trace(network("chain"), (1, 8, 5))
    embed = Embedding(graph, np.ones(4, dtype=np.int64))
    rows = np.array([embed(t, 0.0, 1.0)[3:5] for t in range(3)])
    np.testing.assert_allclose(rows, [(1, 1), (4 / 8, 3 / 5), (1 / 8, 1 / 5)], rtol=1e-6)
