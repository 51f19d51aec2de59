"""Runs what is missing of a paper's table and prints it: ``python -m experiments.reproduce table=table2``."""

from experiments.cli import config

main = config.command("reproduce", job="experiments.searching.reproduce:main")

if __name__ == "__main__":
    main()
