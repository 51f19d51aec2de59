"""One search for all budgets beside a search for each, on a table: ``python -m experiments.budgets``."""

from experiments.cli import config

main = config.command("budgets", job="experiments.searching.budgets:main")

if __name__ == "__main__":
    main()
