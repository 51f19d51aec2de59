"""Trains a dense network: ``python -m experiments.pretrain model=resnet20 data=fashion_mnist``."""

from experiments.cli import config

main = config.command("pretrain", job="experiments.training.pretrain:run")

if __name__ == "__main__":
    main()
