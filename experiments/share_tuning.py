"""Tunes one set of weights for all plans: ``python -m experiments.share_tuning``."""

from experiments.cli import config

main = config.command("share_tuning", job="experiments.training.share_tuning:run")

if __name__ == "__main__":
    main()
