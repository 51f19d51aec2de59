"""Bars as text and as an image."""

import numpy as np
from networks import SHAPE, network

from amc_env import render
from amc_env.graph.trace import trace
from amc_env.plan import Plan


def test_text_has_a_line_a_decision():
    graph = trace(network("chain"), SHAPE)
    plan = Plan(graph.hash, ((0, 1), tuple(range(12)), None))
    assert render.text(graph, plan, 0.4321).splitlines() == [
        "1.0 |#####               |    2 / 8",
        "2.0 |####################|   12 / 12",
        "3.2 |....................|   16 / 16",
        "cost 43.2 % of the dense network",
    ]


def heights(canvas, colour):
    """Of the bars of a colour, from left to right."""
    columns = (canvas == colour).all(-1).sum(0)
    return [int(columns[render.MARGIN + at * (render.BAR + render.GAP)]) for at in range(3)]


def test_picture_has_a_bar_a_decision_as_high_as_its_keep_ratio():
    canvas = render.picture([0.25, 1.0, 1.0], decided=2)
    assert canvas.dtype == np.uint8
    assert canvas.shape == (render.HEIGHT + 2 * render.MARGIN, 2 * render.MARGIN + 3 * 14 + 2 * 4, 3)
    assert heights(canvas, render.KEPT) == [50, 200, 0]
    assert heights(canvas, render.OPEN) == [0, 0, 200]
