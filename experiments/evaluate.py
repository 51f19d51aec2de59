"""Measures a network's accuracy: ``python -m experiments.evaluate checkpoint=runs/NAME/compressed``."""

from experiments.cli import config

main = config.command("evaluate", job="experiments.delivery.evaluate:run")

if __name__ == "__main__":
    main()
