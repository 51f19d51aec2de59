"""Many agents and seeds on a table of the tabular benchmark: ``python -m experiments.compare``."""

from experiments.cli import config

main = config.command("compare", job="experiments.searching.compare:main")

if __name__ == "__main__":
    main()
