"""Policies before and after the same fine-tuning, on one network: ``python -m experiments.policies``."""

from experiments.cli import config

main = config.command("policies", job="experiments.searching.policies:main")

if __name__ == "__main__":
    main()
