"""Train the critic of ``agent=pretrained`` on the tables: ``python -m experiments.pretrain_agent``."""

from experiments.cli import config

main = config.command("pretrain_agent", job="experiments.searching.pretrain_agent:main")

if __name__ == "__main__":
    main()
