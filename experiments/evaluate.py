"""Accuracy of a checkpoint: ``python -m experiments.evaluate checkpoint=runs/NAME/compressed``."""

from pathlib import Path

from omegaconf import DictConfig

from experiments import config


@config.main("evaluate")
def main(cfg: DictConfig, folder: Path) -> None:
    """Print the top-1 accuracy on the split, with its standard error."""
    from amc_env import zoo
    from amc_env.evaluator import accuracy
    from amc_env.zoo import weights
    from experiments.fetch import load_data

    model, card = weights.load(cfg.checkpoint)
    data = load_data(cfg.data)
    zoo.check(model, data.shape, data.classes)
    top1, images = accuracy(model, data, cfg.split), len(data[cfg.split])
    error = (top1 * (1 - top1) / images) ** 0.5
    what = "compressed" if card.plan is not None else "dense"
    where = f"{images:,} {cfg.split} images of {data.name}"
    print(f"{what} {card.architecture} on {where}: {top1:.2%} ± {error:.2%}")


if __name__ == "__main__":
    main()
