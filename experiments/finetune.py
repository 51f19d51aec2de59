"""Fine-tunes the network of a search's plan: ``python -m experiments.finetune run=runs/NAME``."""

from experiments.cli import config

main = config.command("finetune", job="experiments.training.finetune:run")

if __name__ == "__main__":
    main()
