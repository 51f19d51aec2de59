"""Make the tables of the tabular benchmark: ``python -m experiments.tabulate``."""

from experiments.cli import config

main = config.command("tabulate", job="experiments.searching.tabulate:main")

if __name__ == "__main__":
    main()
