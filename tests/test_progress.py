"""The progress meter, with a clock that the test moves."""

import io

import pytest
from rich.console import Console

from experiments.recording import panel
from experiments.recording.progress import LINE_SECONDS, Meter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def meter(total: int, terminal: bool, **settings) -> tuple[Meter, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=140, color_system=None)
    return Meter("episodes", total, console=console, clock=clock, **settings), clock, out


def test_lines_where_there_is_no_terminal():
    shown, clock, out = meter(100, terminal=False)
    with shown:
        for _ in range(40):
            clock.now += 0.5
            shown.update(best_reward=-0.08, top1=0.92, keep="50 %")
    assert out.getvalue().splitlines() == [
        "episodes 20/100  best reward -0.08, top1 0.92, keep 50 %, 2/s, 0:00:40 left",
        "episodes 40/100  best reward -0.08, top1 0.92, keep 50 %, 2/s, 0:00:30 left",
    ]
    assert LINE_SECONDS == 10


def test_the_last_one_always_has_its_line():
    shown, clock, out = meter(3, terminal=False)
    with shown:
        for _ in range(3):
            clock.now += 1
            shown.update()
    assert out.getvalue() == "episodes 3/3  1/s, 0:00:00 left\n"


def test_the_last_line_is_not_repeated():
    shown, _, out = meter(3, terminal=False)
    with shown:
        shown.update(3)
        shown.update(3)
    assert out.getvalue().count("3/3") == 1


def test_a_resumed_run_counts_only_its_own_for_the_speed():
    shown, clock, out = meter(7300, terminal=False, done=50)
    with shown:
        clock.now += 10
        shown.update(60)
    assert out.getvalue() == "episodes 60/7300  1/s, 2:00:40 left\n"


def test_a_bar_on_a_terminal_with_facts_that_come_and_go():
    shown, clock, out = meter(4, terminal=True)
    with shown:
        clock.now += 1
        shown.update(top1=0.5, loss=2.0)
        shown.update(top1=0.75, loss=None)
        shown.say("a line [above]")
    text = out.getvalue()
    assert "2/4" in text
    assert "top1 0.75, 2/s" in text
    assert "a line [above]\n" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


def test_the_terminal_is_given_back_after_an_error():
    shown, _, out = meter(4, terminal=True)
    with pytest.raises(KeyboardInterrupt), shown:
        raise KeyboardInterrupt
    assert "\x1b[?25h" in out.getvalue()


def test_a_panel_shows_the_best_the_layers_and_the_budget():
    out = io.StringIO()
    console = Console(file=out, width=100, color_system=None)
    kept = [("conv1", 0.5), ("conv2", 1.0)]
    console.print(panel.search([-0.5, -0.25, -0.25], kept, "48.0% of the MACs taken, 50.0% allowed"))
    text = out.getvalue()
    assert "▁██  -0.5 to -0.25" in text
    assert "48.0% of the MACs taken, 50.0% allowed" in text
    assert "conv1 █████····· " in text
    assert "conv2 ██████████ 100%" in text


@pytest.mark.parametrize(
    ("values", "line"), [([0.0], "▁"), ([0, 7, 3], "▁█▄"), ([1.0] * 3, "▁▁▁"), (range(120), None)]
)
def test_a_sparkline_is_never_wider_than_asked(values, line):
    found = panel.sparkline(values)
    assert found == line or (line is None and len(found) <= panel.WIDE and found[-1] == "█")


def test_what_is_drawn_stands_below_the_bar_and_nowhere_without_a_terminal():
    for terminal in (True, False):
        shown, _, out = meter(4, terminal=terminal)
        with shown:
            shown.draw("below the bar")
            shown.update()
        assert ("below the bar" in out.getvalue()) == shown.live == terminal
