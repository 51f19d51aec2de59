"""How well proxies rank plans by accuracy after fine-tuning: ``python -m experiments.fidelity``."""

from experiments.cli import config

main = config.command("fidelity", job="experiments.searching.fidelity:main")

if __name__ == "__main__":
    main()
