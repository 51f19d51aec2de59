"""Tune the settings of an agent with Optuna, on a table: ``python -m experiments.tune``."""

from experiments.cli import config

main = config.command("tune", job="experiments.searching.tune:main", locks=False)

if __name__ == "__main__":
    main()
