"""Critics of whole plans that transfer from one network to another.

A critic predicts the KL of a plan up to a factor, as a sum over decisions of w e^q. Here e is the sum of the
relative errors of the layers that read a group (`errors` in the info of ``reset``); weight w and power q are
computed from features that every network has. A group with e = 0.1, w = 2 and q = 1 adds 0.2. Several
critics, trained on different networks, form an ensemble: where they disagree, the network is unlike the ones
they have seen.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from agents.lattice import Floats, Lattice, Plans, summed

FORMAT = 3  # 2: an error was the mean over the layers of a group
KEEPS = (0.25, 0.5, 0.75)  # at which a decision's error is a feature
FEATURES = ("place", "cost", "later cost", *(f"ln error at {keep}" for keep in KEEPS))
TINY = 1e-3  # of an error, before its logarithm
LEAST = 1e-6  # of a damage, likewise
FLOOR = 1e-5  # of an error, before its power
BEND = 0.3  # the features change ln q by at most this
DOUBT = 1.0  # deviations between critics that count as damage where the first plans are chosen
PARAMETERS = ("mean", "scale", "hidden_weight", "hidden_bias", "weight", "bias", "power")


class CriticError(ValueError):
    """A file without a critic of this format."""


def features(lattice: Lattice, errors: Sequence[Sequence[float]]) -> Floats:
    """``(T, 6)``: for each decision, its position in [0, 1]; ln of the largest cost that it can save,
    relative to the mean; the fraction of all such savings that lies after it; ln of its error at `KEEPS`.
    """
    count = lattice.decisions
    whole = np.tile(lattice.tops, (count + 1, 1))
    whole[np.arange(count), np.arange(count)] = 0
    cost = lattice.limits[0].cost(whole)
    saved = np.maximum(cost[-1] - cost[:-1], 1) / np.maximum(cost[-1] - cost[:-1], 1).sum()
    later = saved[::-1].cumsum()[::-1] - saved
    at = [
        np.log(np.interp(KEEPS, keeps, error) + TINY)
        for keeps, error in zip(lattice.keeps, errors, strict=True)
    ]
    place = np.arange(count) / max(1, count - 1)
    return np.column_stack([place, np.log(saved * count), later, np.array(at)])


@dataclass(frozen=True, eq=False)
class Critic:
    """The parameters of a critic, by the names of `PARAMETERS`.

    ``mean`` and ``scale`` standardise the features. A hidden layer of tanh units ``(6, h)`` and an output
    layer ``(h, 2)`` follow: the first output is ln w; ln q is ``power`` plus `BEND` times tanh of the second.
    """

    parameters: Mapping[str, Floats]

    def damage(self, known: Floats, errors: Sequence[Sequence[float]], plans: Plans) -> Floats:
        """``(n,)`` the predicted KL of plans ``(n, T)``, up to a factor of the network.

        Args:
            known: `features` of the network.
            errors: of each decision's choices.
            plans: to be judged.
        """
        p = self.parameters
        x = (known - p["mean"]) / p["scale"]
        out = np.tanh(x @ p["hidden_weight"] + p["hidden_bias"]) @ p["weight"] + p["bias"]
        power = np.exp(p["power"] + BEND * np.tanh(out[:, 1]))
        parts = [
            np.exp(log_weight) * (np.array(error) + FLOOR) ** own
            for log_weight, error, own in zip(out[:, 0], errors, power, strict=True)
        ]
        return summed(parts, plans)


@dataclass(frozen=True)
class Ensemble:
    """Critics trained on different networks; they rate plans relative to a reference plan.

    Attributes:
        critics: the members.
        digest: of their file; empty without one.
        tables: that they were trained on.
    """

    critics: tuple[Critic, ...]
    digest: str = ""
    tables: tuple[str, ...] = ()

    def logs(
        self, lattice: Lattice, errors: Sequence[Sequence[float]], plans: Plans, reference: Plans
    ) -> Floats:
        """``(critics, n)`` ln of the damage of plans ``(n, T)``, relative to one plan ``(1, T)``."""
        known = features(lattice, errors)
        every = np.concatenate([plans, reference])
        found = np.log([critic.damage(known, errors, every) + LEAST for critic in self.critics])
        judged: Floats = found[:, :-1] - found[:, -1:]
        return judged

    def damage(
        self, lattice: Lattice, errors: Sequence[Sequence[float]], plans: Plans, reference: Plans
    ) -> Floats:
        """``(n,)`` the critics' geometric mean, in units of the reference's damage."""
        mean: Floats = np.exp(self.logs(lattice, errors, plans, reference).mean(0))
        return mean

    def doubted(
        self, lattice: Lattice, errors: Sequence[Sequence[float]], plans: Plans, reference: Plans
    ) -> Floats:
        """``(n,)`` ln of the damage, and `DOUBT` deviations between critics more.

        The plan of least predicted damage is one that critics are wrong about. What they agree on is safer.
        """
        judged = self.logs(lattice, errors, plans, reference)
        doubted: Floats = judged.mean(0) + DOUBT * judged.std(0)
        return doubted


def read(path: Path) -> Ensemble:
    """Read the critics of a safetensors file, whose card has the same name.

    Args:
        path: with or without the suffix.

    Raises:
        CriticError: for a file that is missing, damaged, of another format or of other features.
    """
    if not path.name:
        raise CriticError(f"{path} is no file of critics: give what experiments.pretrain_agent wrote")
    path = path if path.suffix == ENDING else path.with_name(path.name + ENDING)
    beside = path.with_suffix(".json")
    if odd := [one for one in (path, beside) if not one.is_file() or one.stat().st_size > LONGEST]:
        raise CriticError(f"{odd[0]} is no file of at most {LONGEST:,} bytes; {AGAIN}")
    try:
        content, card = path.read_bytes(), json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CriticError(f"{path} and its card cannot be read: {error}; {AGAIN}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("features") != list(FEATURES):
        raise CriticError(f"{path} is of another version or features than {', '.join(FEATURES)}; {AGAIN}")
    if (found := hashlib.sha256(content).hexdigest()) != card.get("sha256"):
        raise CriticError(f"{path} has the digest {found[:12]}, its card has another: it is damaged; {AGAIN}")
    try:
        stored = {name: value.astype(np.float64) for name, value in load(content).items()}
        _check(stored)
    except (SafetensorError, CriticError) as error:
        raise CriticError(f"{path} cannot be read: {error}; {AGAIN}") from error
    members = ({name: value[i] for name, value in stored.items()} for i in range(len(stored["mean"])))
    return Ensemble(tuple(map(Critic, members)), found, tuple(map(str, card.get("tables", ()))))


def _check(stored: Mapping[str, Floats]) -> None:
    """Check names, shapes and values of parameters, whose first dimension counts the critics."""
    if set(stored) != set(PARAMETERS):
        raise CriticError(f"it holds {sorted(stored)}, wanted are {sorted(PARAMETERS)}")
    count, n, hidden = len(stored["mean"]), len(FEATURES), stored["hidden_bias"].shape[1:]
    each = ((n,), (n,), (n, *hidden), hidden, (*hidden, 2), (2,), (1,))
    for name, shape in zip(PARAMETERS, each, strict=True):
        if stored[name].shape != (count, *shape) or not stored[name].size:
            raise CriticError(f"{name} is {list(stored[name].shape)}, wanted is {[count, *shape]}")
        if not np.isfinite(stored[name]).all() or (name == "scale" and (stored[name] <= 0).any()):
            raise CriticError(f"{name} holds numbers that are not finite or not above 0")


ENDING = ".safetensors"
LONGEST = 1 << 20  # bytes of a critic, and of its card
AGAIN = "make it with `python -m experiments.pretrain_agent`, critic= its path without suffix"
