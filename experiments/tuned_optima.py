"""Plans of a table after fine-tuning: ``python -m experiments.tuned_optima``."""

from experiments.cli import config

main = config.command("tuned_optima", job="experiments.searching.tuned_optima:main")

if __name__ == "__main__":
    main()
