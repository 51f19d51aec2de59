"""Predicts the damage of plans from the errors of layers, and finds plans of little damage.

Neither needs an evaluation.
"""

from collections.abc import Callable, Sequence

import numpy as np

from agents.episode import Info
from agents.lattice import Floats, Lattice, Plans

Errors = Sequence[Sequence[float]]  # for each decision, of each of its choices
Damages = Sequence[Floats]
POWER = 1.5  # of an error; both formulas were chosen on ResNet-20, VGG-16 and both MobileNets for CIFAR-10
POOL = 400  # random plans that the search for little damage begins with
ROUNDS = 20  # of changes to the best plans so far
KEPT = 20  # plans that are changed in each round
AROUND = 10  # of these, so many have their neighbours looked at as well


class ErrorsError(ValueError):
    """An environment that does not tell the errors of layers."""


def errors_of(info: Info) -> Errors:
    """The errors of each decision's choices in the info of ``reset``.

    Raises:
        ErrorsError: if it has none.
    """
    if "errors" not in info:
        raise ErrorsError(
            "the info of reset holds no errors of the choices; they are there with "
            "compressor.method=channels and repair=moments, staged or sequential"
        )
    errors: Errors = info["errors"]
    return errors


def damages(info: Info) -> Damages:
    """For each decision the damage ``(choices,)`` of each choice, from the info of ``reset``.

    It is sqrt(e l), with e the error and l the rise of the loss in nats that it predicts: 0.04 and 0.01 do a
    damage of 0.02. Where the rises are unknown it is e^1.5, which is 0.008 for 0.04.

    Raises:
        ErrorsError: if the info has no errors.
    """
    errors = [np.array(each) for each in errors_of(info)]
    if "losses" not in info:
        return [each**POWER for each in errors]
    return [np.sqrt(each * loss) for each, loss in zip(errors, info["losses"], strict=True)]


def least(lattice: Lattice, judge: Callable[[Plans], Floats], rng: np.random.Generator) -> Plans:
    """Plans ``(n, T)`` within the budget that a judge finds little damage in, the least first.

    A local search: the best plans are changed in several rounds, beginning with the uniform one and random
    ones.
    """
    pool = np.concatenate([lattice.filled(lattice.uniform(), rng), lattice.random(POOL, rng)])
    for _ in range(ROUNDS):
        best = pool[np.argsort(judge(pool), kind="stable")[:KEPT]]
        around = [lattice.neighbours(plan, rng) for plan in best[:AROUND]]
        mutants = lattice.exchanged(np.repeat(best, 5, axis=0), rng)
        pool = np.unique(np.concatenate([best, mutants, *around]), axis=0)
    return pool[np.argsort(judge(pool), kind="stable")]
