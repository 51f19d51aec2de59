"""A W&B workspace and report that compare agents: ``python -m experiments.dashboard push=true``."""

from experiments.cli import config

main = config.command("dashboard", job="experiments.analysis.dashboard:main", locks=False)

if __name__ == "__main__":
    main()
