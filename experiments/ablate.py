"""Many agents and seeds on a real network: ``python -m experiments.ablate``."""

from experiments.cli import config

main = config.command("ablate", job="experiments.searching.ablate:main")

if __name__ == "__main__":
    main()
