"""Stages of a search: fractions of the dense network that it reaches one after another.

*Source*: AMC, section 4.2: ResNet-50 is compressed and fine-tuned in several rounds.
"""

import copy
from collections.abc import Sequence
from fractions import Fraction

from omegaconf import DictConfig
from torch import nn

from amc_env.coding import packed
from amc_env.compressors.constraints import unconstrained
from amc_env.compressors.surgery import tensors
from experiments.cli.config import ConfigError
from experiments.delivery import timing
from experiments.delivery.runtimes import torch_forward

REPEATS = 10  # of a timed forward pass


def check(cfg: DictConfig) -> None:
    """Refuse stages that do not decrease, or do not divide episodes and epochs evenly.

    Raises:
        ConfigError: says what is possible.
    """
    for target in cfg.targets if cfg.stages else ():
        parts = stages_to(cfg.stages, target)
        if parts != sorted(set(parts), reverse=True):
            raise ConfigError(f"stages must fall towards the target, unlike {parts}")
        for name, total in (("episodes", cfg.episodes), ("recipe.epochs", cfg.recipe.epochs)):
            if total % len(parts):
                raise ConfigError(
                    f"{name} is {total}, which {len(parts)} stages cannot share evenly: give a multiple of "
                    f"{len(parts)}"
                )
    if cfg.stages and cfg.resource not in ("macs", "params"):
        raise ConfigError(f"stages are shares of macs or params, not of {cfg.resource}: give stages=[]")
    if cfg.stages and cfg.compressor.get("method", "channels") != "channels":
        raise ConfigError(
            f"stages cut channels: give method=channels, not {cfg.compressor.method}, or stages=[]"
        )


def stages_to(stages: Sequence[float], target: float) -> list[float]:
    """The fractions that a search goes through: the stages above its target, and the target."""
    return [*(share for share in stages if share > target), target]


def relative(share: float, left: float) -> float:
    """Convert a fraction of the dense network to a fraction of the present one, at most 1, rounded down."""
    if left == 1.0:
        return share
    return min(1.0, float(Fraction(str(share)) / Fraction(left)) - 1e-9)


def costs(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, float]:
    """Measure a network's size and speed.

    Returns:
        ``bytes`` of its coded tensors, each once, see `amc_env.coding.packed`; ``ms``, the least milliseconds
        that `timing.BATCH` images of a shape took, by PyTorch on the processor, however the weights are laid
        out.
    """
    plain = unconstrained(copy.deepcopy(network).cpu().eval()).requires_grad_(False)
    timed = timing.measure({"": torch_forward(plain)}, shape, batches=(timing.BATCH,), repeats=REPEATS)[""][0]
    state = plain.state_dict()
    once = {name: value for name, value in tensors(plain) if name in state}
    return {"bytes": len(packed.encode(once)), "ms": timed.lowest_ms}
