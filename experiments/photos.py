"""Policies on photographs, without training and without labels: ``python -m experiments.photos``."""

from experiments.cli import config

main = config.command("photos", job="experiments.searching.photos:main")

if __name__ == "__main__":
    main()
