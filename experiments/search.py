"""The main job: ``python -m experiments.search``. Search, confirm, fine-tune, export, measure, record."""

from experiments.cli import config

main = config.command("config", job="experiments.searching.search:main")

if __name__ == "__main__":
    main()
