"""Lists a network's layers: ``python -m experiments.describe model=mobilenet_v2 data=cifar10``."""

import sys
from collections.abc import Sequence

from experiments.cli import config

OPTIONS = ("--format", "--picture")

show = config.command("describe", job="experiments.delivery.describe:run")


def main() -> None:
    """The command; ``--format csv`` stands for ``format=csv``."""
    typed = sys.argv
    sys.argv = [typed[0], *keys(typed[1:])]
    try:
        show()
    finally:
        sys.argv = typed


def keys(words: Sequence[str]) -> list[str]:
    """A command line with ``--format csv`` and ``--format=csv`` written as Hydra's ``format=csv``."""
    found, rest = [], iter(words)
    for word in rest:
        option, given, value = word.partition("=")
        following = value if given or option not in OPTIONS else next(rest, "")
        found.append(f"{option[2:]}={following}" if option in OPTIONS else word)
    return found


if __name__ == "__main__":
    main()
