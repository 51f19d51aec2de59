"""Tables, figures and a page of runs: ``python -m experiments.report runs=runs/sweeps/NAME``."""

import sys

from experiments.cli import config
from experiments.cli.command_line import quoted

show = config.command("report", job="experiments.analysis.report:run", locks=False)


def main() -> None:
    """The command; ``keep RUN NAME`` stands for ``keep=RUN name=NAME``."""
    typed = sys.argv
    if typed[1:2] == ["keep"] and len(typed) == 4:
        sys.argv = [typed[0], f"keep={quoted(typed[2])}", f"name={quoted(typed[3])}"]
    try:
        show()
    finally:
        sys.argv = typed


if __name__ == "__main__":
    main()
