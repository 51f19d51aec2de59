"""Constraints on weights in training: pruned weights stay zero, shared weights stay equal."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amc_env.compressors.sharing import codebook


class Pruned(nn.Module):
    """Weights outside a mask are zero.

    Args:
        mask: which weights stay, of the shape of the weight.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with positive zeros; negative ones would be stored as values."""
        return torch.where(self.mask, weight, 0.0)


class Shared(nn.Module):
    """All non-zero weights share few values, and these are trained.

    *Source*: Deep Compression, section 3.3: the gradient of a shared value is the sum of those of its
    weights.

    Args:
        weight: whose values are shared.
        bits: of a code, 1 to 8; if weights are pruned, zero is one of the 2^bits values.
        start: of k-means, see `amc_env.compressors.sharing.codebook`.
        seed: of k-means' random start.
    """

    mask: Tensor
    codes: Tensor
    values: Tensor  # from which training begins

    def __init__(self, weight: Tensor, bits: int, *, start: str = "linear", seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("mask", weight != 0)
        if not self.mask.any():  # a branch that starts at zero
            self.mask.fill_(True)
        values, codes = codebook(
            weight[self.mask].cpu(), (1 << bits) - (not self.mask.all()), start=start, seed=seed
        )
        self.register_buffer("codes", torch.zeros_like(self.mask, dtype=torch.int64))
        self.codes[self.mask] = codes.to(weight.device)
        self.values = values

    def forward(self, values: Tensor) -> Tensor:
        """The weight that the values make."""
        shared: Tensor = _Read.apply(values, self.codes)
        return torch.where(self.mask, shared, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """``(k,)``, the values, which are trained instead of the weight."""
        return self.values.to(weight.device)


class _Read(torch.autograd.Function):
    """``values[codes]`` with a fast gradient: autograd's own sorts the codes and sums value by value."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.size = len(values)
        return values[codes]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (codes,) = gradients, ctx.saved_tensors
        sums = gradient.new_zeros(ctx.size)
        return sums.index_add_(0, codes.flatten(), gradient.flatten()), None


def constrain(model: nn.Module, constraints: Mapping[str, nn.Module]) -> None:
    """Put each named layer's weight under a constraint, which replaces an existing one."""
    for name, constraint in constraints.items():
        module = model.get_submodule(name)
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
        parametrize.register_parametrization(module, "weight", constraint)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer, after its constraint if it has one."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def unconstrained(network: nn.Module) -> nn.Module:
    """A copy without constraints, whose weights are plain tensors."""
    free, made = copy.deepcopy(network), dict[nn.Module, nn.Module]()
    for name, module in list(free.named_modules(remove_duplicate=False)):
        if parametrize.is_parametrized(module, "weight"):
            if module not in made:
                made[module] = _plain(module)
            if not name:
                return made[module]
            free.set_submodule(name, made[module])
    return free


def _plain(module: nn.Module) -> nn.Module:
    """The module without its constraint.

    ``remove_parametrizations`` would change the class, which copies of a module share.
    """
    own = [each for name, each in module.named_parameters() if name.startswith("parametrizations.weight.")]
    learnt = any(each.requires_grad for each in own)
    weight = nn.Parameter(weight_of(module).detach(), requires_grad=learnt)
    kind = type(module).__mro__[1]
    plain: nn.Module = object.__new__(kind)
    plain.__dict__.update(module.__dict__)
    plain._parameters = {"weight": weight, **module._parameters}
    plain._modules = {name: part for name, part in module._modules.items() if name != "parametrizations"}
    return plain
