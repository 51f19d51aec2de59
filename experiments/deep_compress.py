"""Prunes, shares and codes a network into one small file: ``python -m experiments.deep_compress``."""

from experiments.cli import config

main = config.command("deep_compress", job="experiments.training.deep_compression:run")

if __name__ == "__main__":
    main()
