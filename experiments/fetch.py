"""Brings a data set to this machine: ``python -m experiments.fetch data=fashion_mnist``."""

from experiments.cli import config

main = config.command("fetch", job="experiments.cli.datasets:run")

if __name__ == "__main__":
    main()
