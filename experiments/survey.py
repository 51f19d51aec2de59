"""Which networks of a library can be cut and exported: ``python -m experiments.survey models=[timm]``."""

from experiments.cli import config

main = config.command("survey", job="experiments.delivery.survey:main")

if __name__ == "__main__":
    main()
